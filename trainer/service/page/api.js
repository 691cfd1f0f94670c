// Asks the service, with a key where it wants one. Addresses are relative, so that a proxy may serve the page
// below any path.

const dialog = document.getElementById("key-dialog");
const form = document.getElementById("key-form");
const field = document.getElementById("key");
let asking = null;

/** An answer that is an error; `message` is the service's sentence. */
export class Refused extends Error {}

/** Return the JSON of an address; `body` makes it a POST. Throws Refused, or AbortError when given up. */
export async function ask(path, { body, signal } = {}) {
  for (;;) {
    const headers = {};
    const key = sessionStorage.getItem("key");
    if (key) headers["X-API-Key"] = key;
    if (body) headers["Content-Type"] = "application/json";
    let answer;
    try {
      answer = await fetch(path, {
        method: body ? "POST" : "GET",
        headers,
        body: body && JSON.stringify(body),
        signal,
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused("The service cannot be reached. Is it still running?");
    }
    if (answer.status === 401 && dialog) {
      await askForKey(Boolean(key) && key === sessionStorage.getItem("key"));
      continue;
    }
    const content = await answer.json().catch(() => ({ error: `The service answered ${answer.status}.` }));
    if (!answer.ok) throw new Refused(content.error);
    return content;
  }
}

/** Return an address with its query; lists repeat their name, and empty values are left out. */
export function address(path, query = {}) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== undefined && each !== "" && each !== false) search.append(name, each);
    }
  }
  return `${path}?${search}`;
}

/** Ask once for the key, however many requests wait for it. */
function askForKey(wrong) {
  if (wrong) sessionStorage.removeItem("key");
  asking ??= new Promise((resolve) => {
    if (wrong) document.getElementById("key-about").textContent = "This key is not one of the service's.";
    field.value = "";
    dialog.showModal();
    form.onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem("key", field.value.trim());
      dialog.close();
      asking = null;
      resolve();
    };
    dialog.oncancel = (event) => event.preventDefault();
  });
  return asking;
}
