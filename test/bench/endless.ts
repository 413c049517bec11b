/** Requests of a shipped model whose answers are as long as they may be, for measuring. */
import { Random } from "../../src/base.ts";
import { openModel } from "../../src/load/model-file.ts";
import { createTokenizer } from "../../src/text/tokenizer.ts";
import type { GenerateParams, RequestInput } from "../../src/wire/protocol.ts";

/** Its context holds 2,000 tokens, and a software adapter computes those in seconds. */
export const SUBJECT = "demo/models/tide-dense.gguf";

/** What keeps an answer from ending before its length, and others from finding any of it. */
export async function endless(): Promise<GenerateParams> {
  const file = await openModel(SUBJECT);
  const { eosIds } = createTokenizer(file);
  await file.close();
  return { logitBias: Object.fromEntries(eosIds.map((id) => [id, -100])), cache: "off" };
}

export function randomPrompt(random: Random, count: number, vocabSize: number): RequestInput {
  return { kind: "tokens", tokens: Array.from({ length: count }, () => random.below(vocabSize)) };
}
