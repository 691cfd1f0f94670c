"""The checks of `doctor`: what it looks at, and how it judges that."""

from functools import partial

from trainer.doctor.findings import Check
from trainer.doctor.host import (
    judge_clock,
    judge_core_dumps,
    judge_locked_memory,
    judge_name,
    judge_open_files,
    judge_processes,
    judge_terminal,
    look_clock,
    look_limit,
    look_name,
    look_terminal,
)
from trainer.doctor.processor import (
    judge_backends,
    judge_cpu,
    judge_gpus,
    judge_memory,
    judge_threads,
    look_backends,
    look_cpu,
    look_gpus,
    look_memory,
    look_threads,
)
from trainer.doctor.software import (
    judge_builds,
    judge_imports,
    judge_packages,
    judge_python,
    look_imports,
    look_packages,
    look_python,
)
from trainer.doctor.storage import (
    cache,
    judge_disk,
    judge_shared_memory,
    look_disk,
    look_shared_memory,
    runs,
    temporary,
)
from trainer.doctor.trials import judge_kernels, judge_round_trip, look_kernels, look_round_trip

CHECKS = (
    Check("python", look_python, judge_python),
    Check("packages", look_packages, judge_packages),
    Check("builds", look_packages, judge_builds),
    Check("imports", look_imports, judge_imports),
    Check("cpu", look_cpu, judge_cpu),
    Check("gpus", look_gpus, judge_gpus),
    Check("backends", look_backends, judge_backends),
    Check("threads", look_threads, judge_threads),
    Check("memory", look_memory, judge_memory),
    Check("shared_memory", look_shared_memory, judge_shared_memory),
    Check("disk_runs", lambda: look_disk(runs()), judge_disk),
    Check("disk_cache", lambda: look_disk(cache()), judge_disk),
    Check("disk_tmp", lambda: look_disk(temporary()), judge_disk),
    Check("host_name", look_name, judge_name),
    Check("clock", look_clock, judge_clock),
    Check("open_files", partial(look_limit, "RLIMIT_NOFILE"), judge_open_files),
    Check("processes", partial(look_limit, "RLIMIT_NPROC"), judge_processes),
    Check("locked_memory", partial(look_limit, "RLIMIT_MEMLOCK"), judge_locked_memory),
    Check("core_dumps", partial(look_limit, "RLIMIT_CORE"), judge_core_dumps),
    Check("terminal", look_terminal, judge_terminal),
    Check("kernels", look_kernels, judge_kernels, slow=True),
    Check("ranks_gloo", partial(look_round_trip, "gloo"), judge_round_trip, slow=True),
    Check("ranks_nccl", partial(look_round_trip, "nccl"), judge_round_trip, slow=True),
)
"""In the order in which they are shown among findings of one severity."""
