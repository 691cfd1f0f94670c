"""`python -m trainer COMMAND`."""

from trainer.cli import run_process

if __name__ == "__main__":
    run_process()
