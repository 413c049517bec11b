// Where tide-hybrid lies, as Engine.load takes it in a page, in Deno and in Node. Bundlers of pages find the file by this very
// expression. Nothing is read here.
export const tideHybrid = new URL("./tide-hybrid.gguf", import.meta.url);
