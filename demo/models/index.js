// Where the shipped models lie, as Engine.load takes them in a page, in Deno and in Node. Bundlers of pages find the files
// by these very expressions. Nothing is read here.

export const tideDense = new URL("./tide-dense.gguf", import.meta.url);
export const tideHybrid = new URL("./tide-hybrid.gguf", import.meta.url);
export const tideMoe = new URL("./tide-moe.gguf", import.meta.url);
