// Shows openapi.json without a library: each address with its parameters, its body and an example.

import { ask } from "./api.js";
import { element } from "./lists.js";

/** Return the schema that a reference stands for. */
function resolved(schema, all) {
  const name = schema?.$ref?.split("/").pop();
  return name ? all[name] : schema;
}

/** Return names and meanings as a list of definitions; nothing where there are none. */
function definitions(title, pairs) {
  if (!pairs.length) return [];
  const list = element("dl");
  for (const [name, meaning] of pairs) list.append(element("dt", "", name), element("dd", "", meaning || ""));
  return [element("h4", "", title), list];
}

function described(property) {
  const standard = property.default === undefined || property.default === null ? "" : ` Default: ${JSON.stringify(property.default)}.`;
  // A field that may be null has its meaning one level below.
  const meaning = property.description ?? property.anyOf?.find((each) => each.description)?.description ?? "";
  return `${meaning}${standard}`.replaceAll("`", "").trim();
}

function card(path, method, about, all) {
  const box = element("article", "card");
  const name = element("h3");
  name.append(element("span", "method", method.toUpperCase()), path);
  box.append(name, element("p", "", about.description));
  const parameters = (about.parameters ?? []).map((each) => [
    each.name,
    described({ ...each.schema, description: each.description }),
  ]);
  box.append(...definitions("Parameters", parameters));
  const body = resolved(about.requestBody?.content["application/json"].schema, all);
  if (body) {
    box.append(...definitions("Body", Object.entries(body.properties).map(([key, each]) => [key, described(each)])));
    box.append(element("h4", "", "Example"));
    for (const example of body.examples ?? []) box.append(element("pre", "", JSON.stringify(example)));
  }
  const answer = resolved(about.responses["200"].content?.["application/json"]?.schema, all);
  if (answer?.properties) {
    box.append(...definitions("Answer", Object.entries(answer.properties).map(([key, each]) => [key, described(each)])));
  }
  return box;
}

const schema = await ask("openapi.json");
document.getElementById("lead").textContent = schema.info.description.replaceAll("\n", " ").replaceAll("`", "");
const groups = new Map();
for (const [path, methods] of Object.entries(schema.paths)) {
  for (const [method, about] of Object.entries(methods)) {
    const tag = about.tags[0];
    if (!groups.has(tag)) groups.set(tag, [element("h2", "", tag)]);
    groups.get(tag).push(card(path, method, about, schema.components.schemas));
  }
}
document.getElementById("addresses").append(...[...groups.values()].flat());
