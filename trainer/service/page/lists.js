// Turns answers into elements. Text is set as text, never as HTML: titles and ids are somebody else's.

/** Return an element with a class and text. */
export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/** Return what an item is called. */
export const called = (item) => item.title ?? item.item;

/** Return `release_year` as `Release year`; the name of a table before it is left out. */
export function readable(name) {
  const text = name.split(".").pop().replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Return attributes as one line: values of categories first, then numbers. */
function facts(item) {
  const values = Object.values(item.attributes ?? {});
  const texts = values.filter((each) => typeof each !== "number").flat();
  // A year that stands in the title already would only be repeated.
  const numbers = values.filter((each) => typeof each === "number" && !item.title?.includes(`(${each})`));
  const rounded = numbers.map((each) => (Number.isInteger(each) ? each : each.toPrecision(3)));
  return [texts.slice(0, 4).join(", "), ...rounded].filter((each) => each !== "").join(" · ");
}

/** Return the reasons as a line that names the items of the past. */
function reasons(why) {
  const line = element("p", "why");
  line.append("Because of ");
  why.forEach((item, place) => {
    if (place) line.append(place === why.length - 1 ? " and " : ", ");
    line.append(element("b", "", called(item)));
  });
  return line;
}

/** Show a ranked list; `similar(item)` returns a promise of items like one. */
export function showRanked(list, items, similar) {
  const scores = items.map((item) => item.score);
  const [top, least] = [Math.max(...scores), Math.min(...scores)];
  list.replaceChildren(
    ...items.map((item) => {
      const row = element("li");
      const words = element("div", "words");
      words.append(element("p", "title", called(item)));
      const about = facts(item);
      if (about) words.append(element("p", "facts", about));
      if (item.why?.length) words.append(reasons(item.why));
      row.append(element("span", "rank", String(item.rank)), words, score(item, top, least));
      row.append(...moreLike(item, similar));
      return row;
    }),
  );
}

/** Return the score, and a bar beside the best of the list; from the last on where scores go below zero. */
function score(item, top, least) {
  const box = element("div", "score");
  const bar = element("span", "bar");
  const ground = least > 0 ? 0 : least;
  const fill = element("i");
  fill.style.width = `${top > ground ? (100 * (item.score - ground)) / (top - ground) : 100}%`;
  bar.append(fill);
  bar.setAttribute("aria-hidden", "true");
  box.append(element("span", "hidden", "Score "), item.score.toFixed(2), bar);
  return box;
}

/** Return a button that shows items like one, and hides them again, and their list. */
function moreLike(item, similar) {
  const button = element("button", "quiet more", "More like this");
  button.type = "button";
  button.setAttribute("aria-expanded", "false");
  button.setAttribute("aria-label", `More like ${called(item)}`);
  const list = element("ol", "similar");
  list.hidden = true;
  button.addEventListener("click", async () => {
    if (!list.children.length) {
      try {
        list.replaceChildren(...(await similar(item)).map(line));
      } catch (error) {
        list.replaceChildren(element("li", "", error.message));
      }
    }
    list.hidden = !list.hidden;
    button.setAttribute("aria-expanded", String(!list.hidden));
  });
  return [button, list];
}

/** Return an item as one line. */
function line(item) {
  const made = element("li", "", called(item));
  const about = facts(item);
  if (about) made.append(element("span", "facts", about));
  return made;
}

/** Show what a user has, at first only the beginning. */
export function showPast(list, button, items, most = 8) {
  const show = (count) => list.replaceChildren(...items.slice(0, count).map((item) => element("li", "", called(item))));
  show(most);
  button.hidden = items.length <= most;
  button.textContent = `Show all ${items.length.toLocaleString("en")}`;
  button.onclick = () => {
    show(items.length);
    button.hidden = true;
  };
}
