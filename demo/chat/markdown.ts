/**
 * Markdown as DOM elements. Nothing is ever parsed as HTML: the elements are made here, from a closed list of tags and
 * attributes, and all else is text. Images are not fetched; their description stands in their place.
 */
import MarkdownIt, { type Token } from "markdown-it";
import { el } from "../page/dom.ts";

const parser = new MarkdownIt("default", { html: false, linkify: false, typographer: false });

/** What an answer may be made of. */
const TAGS = [
  "p",
  "h1",
  "h2",
  "h3",
  "h4",
  "h5",
  "h6",
  "ul",
  "ol",
  "li",
  "blockquote",
  "table",
  "thead",
  "tbody",
  "tr",
  "th",
  "td",
  "em",
  "strong",
  "s",
] as const;

type Tag = (typeof TAGS)[number];

/** A heading of an answer is below those of the page. */
const HEADINGS: Partial<Record<Tag, Tag>> = { h1: "h3", h2: "h4", h3: "h5", h4: "h6", h5: "h6" };

const SAFE_PROTOCOLS = ["https:", "http:", "mailto:"];

/** A growing text: only its end is parsed again when more arrives. */
export class MarkdownStream {
  private readonly element: HTMLElement;
  /** Where the blocks that may still change begin, in the text and in the element. */
  private tailAt = 0;
  private tailNodes: Node[] = [];

  constructor(element: HTMLElement) {
    this.element = element;
  }

  /** Shows `text`, which begins with what was shown before. */
  show(text: string): void {
    const tail = text.slice(this.tailAt);
    const blocks = blocksOf(tail);
    for (const node of this.tailNodes) node.parentNode?.removeChild(node);
    const nodes = blocks.map((block) => rendered(block.tokens));
    this.element.append(...nodes.flat());
    const settled = settledOf(blocks, tail);
    this.tailNodes = nodes.slice(settled).flat();
    this.tailAt += blocks[settled]?.start ?? 0;
  }

  /** Shows the whole once more: a reference at the end may give a link to a block before. */
  finish(text: string): void {
    this.element.replaceChildren(...rendered(parser.parse(text, {})));
  }
}

/** A block of the top level: where its first line begins, in characters, and its tokens. */
export interface Block {
  start: number;
  tokens: Token[];
}

/**
 * How many of a text's blocks stay as they are when more text comes, but for references to links: those before the last one
 * that begins in a finished line. What an unfinished line begins may yet become a part of it ("1" a list's next item).
 */
export function settledOf(blocks: readonly Block[], text: string): number {
  const unfinishedAt = text.lastIndexOf("\n") + 1;
  return Math.max(
    0,
    blocks.findLastIndex(({ start }) => start < unfinishedAt),
  );
}

/** The blocks of the top level. */
export function blocksOf(text: string): Block[] {
  const blocks: Block[] = [];
  let depth = 0;
  let [start, line] = [0, 0];
  for (const token of parser.parse(text, {})) {
    if (depth === 0) {
      for (; line < (token.map?.[0] ?? line); line++) start = text.indexOf("\n", start) + 1;
      blocks.push({ start, tokens: [] });
    }
    blocks.at(-1)?.tokens.push(token);
    depth += token.nesting;
  }
  return blocks;
}

function rendered(tokens: readonly Token[]): Node[] {
  const root = document.createDocumentFragment();
  const open: ParentNode[] = [root];
  for (const token of tokens) {
    const parent = open.at(-1) ?? root;
    if (token.nesting === 1) {
      const element = opened(token);
      parent.append(element);
      open.push(element);
    } else if (token.nesting === -1) open.pop();
    else parent.append(...leafOf(token));
  }
  return [...root.childNodes];
}

/** The element of an opening token; one that is not in the list becomes a plain group. */
function opened(token: Token): HTMLElement | DocumentFragment {
  if (token.type === "link_open") return link(token);
  if (token.type === "paragraph_open" && token.hidden) return el("span", { class: "tight" });
  const tag = TAGS.find((one) => one === token.tag);
  if (tag === undefined) return el("span");
  const start = tag === "ol" ? attribute(token, "start") : "";
  const align = /^text-align:(left|center|right)$/.exec(attribute(token, "style"))?.[1];
  return el(HEADINGS[tag] ?? tag, {
    ...(/^\d+$/.test(start) && { start }),
    ...(align !== undefined && { class: `to-${align}` }),
  });
}

const attribute = (token: Token, name: string): string => String(token.attrGet(name) ?? "");

function link(token: Token): HTMLElement {
  const href = attribute(token, "href");
  if (!URL.canParse(href) || !SAFE_PROTOCOLS.includes(new URL(href).protocol)) return el("span");
  return el("a", { href, rel: "noopener noreferrer", target: "_blank" });
}

function leafOf(token: Token): (Node | string)[] {
  switch (token.type) {
    case "inline":
      return rendered(token.children ?? []);
    case "code_inline":
      return [el("code", {}, token.content)];
    case "fence":
    case "code_block":
      return [el("pre", { tabindex: 0 }, el("code", {}, token.content.replace(/\n$/, "")))];
    case "hr":
      return [el("hr")];
    case "hardbreak":
      return [el("br")];
    case "softbreak":
      return ["\n"];
    case "image":
      return [el("span", { class: "image" }, `[image: ${token.content}]`)];
    default:
      return [token.content]; // text, and whatever is not known: shown as it was written
  }
}
