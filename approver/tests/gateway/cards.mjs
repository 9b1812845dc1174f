// Reads an array of Adaptive Cards; says of each what npm's adaptivecards, Microsoft's own library,
// finds wrong with it and what it is once read, and what npm's markdown-it makes of its facts.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import MarkdownIt from "markdown-it";

// Its module build does not load in node.
const AC = createRequire(import.meta.url)("adaptivecards/dist/adaptivecards.js");
const markdown = new MarkdownIt();

const read = (json) => {
  const card = new AC.AdaptiveCard();
  const context = new AC.SerializationContext(AC.Versions.v1_4);
  card.parse(json, context);
  const wrong = Array.from({ length: context.eventCount }, (_, i) => context.getEventAt(i).message);
  wrong.push(...card.validateProperties().validationEvents.map((event) => event.message));
  const facts = json.body.flatMap((item) => item.facts ?? []).flatMap((fact) => [fact.title, fact.value]);
  return {
    wrong,
    read: card.toJSON(context),
    facts: facts.map((text) => ({ text, shown: markdown.renderInline(text) })),
  };
};
console.log(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(read)));
