/** The models that come with the page. A file that was absent when the page was built is not offered. */
/// <reference types="vite/types/importMeta.d.ts" />

export interface Shipped {
  name: string;
  description: string;
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
    description: "the same world, with convolutions in most of its layers: little to keep for each token",
  },
];

const files = import.meta.glob<string>("./models/*.gguf", { query: "?url", import: "default", eager: true });

export const shippedModels: readonly Shipped[] = SHIPPED.flatMap(({ name, file, description }) => {
  const url = files[`./models/${file}`];
  return url === undefined ? [] : [{ name, description, url: new URL(url, document.baseURI) }];
});
