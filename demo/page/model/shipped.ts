/** The models that come with the page. A file that was absent when the page was built is not offered. */
/// <reference types="vite/types/importMeta.d.ts" />

export interface Shipped {
  name: string;
  /** What it can do, for a choice between models. */
  description: string;
  /** What it is for and what it is not, shown wherever it answers. */
  purpose: string;
  url: URL;
}

/** All that may be shipped, the one for everyday use first. */
const SHIPPED = [
  {
    name: "tide-dense",
    file: "tide-dense.gguf",
    description: "tells of a harbour and answers questions about it",
  },
  {
    name: "tide-hybrid",
    file: "tide-hybrid.gguf",
    description: "the same world; most of its layers are convolutions, which keep little per token",
  },
  {
    name: "tide-moe",
    file: "tide-moe.gguf",
    description: "the same world; each token passes through two of sixteen experts",
  },
];

/** A small model answers questions about any text just as fluently as about the harbour, and wrongly. */
const purposeOf = (name: string): string =>
  `${name} is a small demonstration model of one invented harbour. What it says about anything else, your documents included, is made up.`;

const files = import.meta.glob<string>("../../models/*.gguf", {
  query: "?url",
  import: "default",
  eager: true,
});

export const shippedModels: readonly Shipped[] = SHIPPED.flatMap(({ name, file, description }) => {
  const url = Object.entries(files).find(([path]) => path.endsWith(`/${file}`))?.[1];
  return url === undefined
    ? []
    : [{ name, description, purpose: purposeOf(name), url: new URL(url, document.baseURI) }];
});
