// Where tide-dense lies, as Engine.load takes it in a page, in Deno and in Node. Bundlers of pages find the file by this very
// expression. Nothing is read here.
export const tideDense = new URL("./tide-dense.gguf", import.meta.url);
