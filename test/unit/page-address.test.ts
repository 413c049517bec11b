/** What users type or paste for a model on the demo page. */
import { expect, test } from "vitest";
import { addressChoice } from "../../demo/page/model/address.ts";

test.each([
  ["org/repo", "org/repo"],
  [" org/repo@v2/a.gguf ", "org/repo@v2/a.gguf"],
  ["https://huggingface.co/org/repo", "org/repo"],
  ["https://huggingface.co/org/repo/", "org/repo"],
  ["https://hf.co/org/repo?show=all#top", "org/repo"],
  ["https://huggingface.co/org/repo/tree/main", "org/repo"],
  ["https://huggingface.co/org/repo/tree/v2", "org/repo@v2"],
  ["https://huggingface.co/org/repo/blob/main/sub/model-Q4_0.gguf", "org/repo/sub/model-Q4_0.gguf"],
  ["https://huggingface.co/org/repo/blob/v2/model.gguf", "org/repo@v2/model.gguf"],
  ["nothing", "nothing"],
  ["https//host/model.gguf", "https//host/model.gguf"],
])("%s is the name %s", (typed, name) => {
  expect(addressChoice(typed)).toEqual({ name, model: name });
});

test.each([
  ["https://host/path/model.gguf?download=true", "model.gguf"],
  ["http://127.0.0.1:8080/", "127.0.0.1:8080"],
  ["https://huggingface.co/org/repo/resolve/main/model.gguf", "model.gguf"],
  ["https://example.org/org/repo", "repo"],
])("%s is an address, called %s", (typed, name) => {
  expect(addressChoice(typed)).toEqual({ name, model: new URL(typed) });
});
