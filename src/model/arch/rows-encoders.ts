/**
 * Architectures that make vectors of texts and generate nothing: each token sees the whole text. What a row does not say is as in
 * PLAIN (architecture.ts), or as in the causal model that it comes from.
 */
import type { Architecture } from "./architecture.ts";
import { DENSE } from "./rows-dense.ts";

/** What EmbeddingGemma was trained to read before a text. */
const GEMMA_TASKS = {
  query: "task: search result | query: ",
  document: "title: none | text: ",
  clustering: "task: clustering | query: ",
  classification: "task: classification | query: ",
  similarity: "task: sentence similarity | query: ",
};

const GEMMA3 = DENSE.find(({ gguf }) => gguf === "gemma3") as Architecture;

export const ENCODERS: readonly Architecture[] = [
  { ...GEMMA3, gguf: "gemma-embedding", config: [], isEncoder: true, tasks: GEMMA_TASKS },
];
