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
  const numbers = values.filter((each) => typeof each === "number");
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
      const words = element("div");
      words.append(element("p", "title", called(item)));
      const about = facts(item);
      if (about) words.append(element("p", "facts", about));
      if (item.why?.length) words.append(reasons(item.why));
      row.append(element("span", "rank", String(item.rank)), words, score(item, top, least));
      row.append(moreLike(item, similar));
      return row;
    }),
  );
}

/** Return the score, and a bar from the best (full) to the last of the list (a fifth). */
function score(item, top, least) {
  const box = element("div", "score");
  const bar = element("span", "bar");
  const part = top > least ? (item.score - least) / (top - least) : 1;
  const fill = element("i");
  fill.style.width = `${20 + 80 * part}%`;
  bar.append(fill);
  bar.setAttribute("aria-hidden", "true");
  box.append(element("span", "hidden", "Score "), item.score.toFixed(2), bar);
  return box;
}

/** Return a button that shows items like one below it, and hides them again. */
function moreLike(item, similar) {
  const box = element("div", "more");
  const button = element("button", "quiet", "More like this");
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
  box.append(button, list);
  return box;
}

/** Return an item as one line. */
function line(item) {
  const made = element("li", "", called(item));
  const about = facts(item);
  if (about) made.append(element("span", "facts", about));
  return made;
}

/** Show what a user has, latest first, at first only the beginning. */
export function showPast(list, button, items, most = 8) {
  const latest = [...items].reverse();
  const show = (count) => list.replaceChildren(...latest.slice(0, count).map((item) => element("li", "", called(item))));
  show(most);
  button.hidden = latest.length <= most;
  button.textContent = `Show all ${latest.length}`;
  button.onclick = () => {
    show(latest.length);
    button.hidden = true;
  };
}
