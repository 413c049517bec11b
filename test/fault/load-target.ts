/**
 * Everything that a model's files go through before a GPU computes anything: parsing, facts, the layer table, the weights'
 * plan and upload, the workspace, vocabulary, tokenizer and chat template; on the processor, with a device that counts.
 * It judges one set of files: ok, or a typed error that names the file.
 */
import { TidepoolError } from "../../src/errors.ts";
import { openModel, type ModelFile } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import { shapeOf } from "../../src/model/arch/rows.ts";
import { Runner } from "../../src/model/runner.ts";
import { checkTensors } from "../../src/model/arch/tensor-names.ts";
import { textParts, type TextQuestion } from "../../src/worker/text/messages.ts";
import { TextService } from "../../src/worker/text/service.ts";
import { fakeGpu } from "../support/fake-gpu.ts";

/** The files of one model, by name. */
export type Files = Readonly<Record<string, Uint8Array>>;

/** Codes that a file may end with; anything else is a mistake of ours. */
const FILE_CODES: ReadonlySet<string> = new Set([
  "invalid_file",
  "unsupported",
  "not_found",
  "out_of_memory",
  "too_long",
  "timed_out",
  "invalid_argument",
]);

const MAX_BUFFER_BYTES = 256 * 1024 * 1024;
const device = fakeGpu(MAX_BUFFER_BYTES);

const OPTIONS = { dtype: "f32", kvDtype: "f32", blockTokens: 32, chunkTokens: 32, seats: 2 } as const;
const POOL_TOKENS = 512;

const QUESTIONS: readonly TextQuestion[] = [
  { kind: "text", text: "Hello, wörld 漢字 🌊  <|im_end|>\n\n 1234" },
  {
    kind: "chat",
    messages: [
      { role: "system", content: "Be brief." },
      { role: "user", content: "Hi!" },
      { role: "assistant", content: "Hi", tokens: [1, 2] },
      { role: "user", content: "<s> Why?" },
    ],
  },
];

export interface Verdict {
  /** "ok" or an error's code, for the model and for its text. */
  model: string;
  text: string;
  /** Bytes of GPU buffers that were asked for. */
  bufferBytes: number;
}

/** Goes through all of it. @throws what is not an error of ours, or one that does not name the file. */
export async function loadOnProcessor(files: Files): Promise<Verdict> {
  device.takeBufferBytes();
  const names = [...Object.keys(files), "tokenizer.json", "config.json", "model.safetensors"];
  let text = "none";
  const model = await outcome(names, async () => {
    const file = await openModel(Object.entries(files).map(([name, bytes]) => openBytes(bytes, name)));
    text = await outcome(names, () => Promise.resolve(file).then(runText));
    checkTensors(file, shapeOf(file));
    const runner = await Runner.load(device.gpu, file, { ...OPTIONS, poolTokens: POOL_TOKENS });
    runner.destroy();
    await file.close();
  });
  return { model, text, bufferBytes: device.takeBufferBytes() };
}

function runText(file: ModelFile): void {
  const parts = textParts(file);
  const service = new TextService(structuredClone(parts));
  structuredClone(service.facts);
  for (const question of QUESTIONS) service.answer(question);
}

async function outcome(names: readonly string[], work: () => Promise<void>): Promise<string> {
  try {
    await work();
    return "ok";
  } catch (error) {
    if (!(error instanceof TidepoolError) || !FILE_CODES.has(error.code)) throw error;
    const isTemplates = error.code === "invalid_argument" && error.message.includes("chat template");
    if (isTemplates || names.some((name) => error.message.includes(name))) return error.code;
    throw new Error(`the error names no file: ${error.message}`, { cause: error });
  }
}
