// A field with a list of what it may become: the combobox of the ARIA practices, for mouse, keys and readers.

const PAUSE = 120; // milliseconds without a key before the service is asked

/**
 * Make an input a combobox.
 *
 * `find(text, signal)` returns a promise of options `{ value, text }`, `choose(option)` takes one.
 */
export function combobox(input, list, { find, choose, empty }) {
  let options = [];
  let active = -1;
  let timer;
  let running;

  input.setAttribute("role", "combobox");
  input.setAttribute("aria-autocomplete", "list");
  input.setAttribute("aria-expanded", "false");
  input.setAttribute("aria-controls", list.id);
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Suggestions");

  function close() {
    clearTimeout(timer);
    running?.abort();
    list.hidden = true;
    list.replaceChildren();
    options = [];
    active = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }

  function mark(index) {
    active = index;
    [...list.children].forEach((each, place) => each.setAttribute("aria-selected", String(place === index)));
    if (index < 0) return input.removeAttribute("aria-activedescendant");
    input.setAttribute("aria-activedescendant", list.children[index].id);
    list.children[index].scrollIntoView({ block: "nearest" });
  }

  function show(found) {
    options = found;
    list.replaceChildren(
      ...found.map((option, place) => {
        const line = document.createElement("li");
        line.id = `${list.id}-${place}`;
        line.setAttribute("role", "option");
        line.setAttribute("aria-selected", "false");
        line.textContent = option.text;
        // Not `click`: the field would lose the focus, and the list close, before.
        line.addEventListener("pointerdown", (event) => {
          event.preventDefault();
          take(place);
        });
        return line;
      }),
    );
    if (!found.length) {
      const none = document.createElement("li");
      none.className = "none";
      none.textContent = empty;
      list.append(none);
    }
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    mark(found.length ? 0 : -1);
  }

  function take(place) {
    const option = options[place];
    close(); // which forgets the options
    if (option) choose(option);
  }

  async function search() {
    running?.abort();
    running = new AbortController();
    const { signal } = running;
    const text = input.value.trim();
    if (!text) return close();
    try {
      const found = await find(text, signal);
      if (!signal.aborted) show(found);
    } catch (error) {
      if (error.name !== "AbortError") close();
    }
  }

  input.addEventListener("input", () => {
    // The list is of an earlier text: Enter takes what is typed until the new one is there.
    options = [];
    active = -1;
    clearTimeout(timer);
    timer = setTimeout(search, PAUSE);
  });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    const moves = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in moves && !list.hidden && options.length) {
      event.preventDefault();
      mark((active + moves[event.key] + options.length) % options.length);
    } else if (event.key === "ArrowDown") {
      search();
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (!list.hidden && active >= 0) take(active);
      else {
        close();
        const text = input.value.trim();
        if (text) choose({ value: text, text, typed: true });
      }
    } else if (event.key === "Escape") {
      close();
    }
  });
}
