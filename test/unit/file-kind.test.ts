/** A file of another kind than expected: every loader of a file that a user names says which file, what it is, and what it should be. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { privateKeyIn, publicKeyOf } from "../../src/api/commands/signing-keys.ts";
import { jsonFile, readBytes } from "../../src/api/flags.ts";
import { readActivations } from "../../src/cache/experts/activations.ts";
import { LearnedPredictor } from "../../src/cache/experts/predictor.ts";
import { inFile } from "../../src/errors.ts";
import { openModel } from "../../src/load/model-file.ts";
import { openBytes } from "../../src/load/source.ts";
import { decodeTraceBytes, parseTrace } from "../../src/sim/trace.ts";
import { decodeArchive } from "../../src/tier/record/archive.ts";

const bytes = (text: string): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(text.padEnd(900, " "), (char) => char.charCodeAt(0));

const HEADER = '{"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}';

/** A file of each kind, and the noun by which it is known. */
const FILES: Record<string, Uint8Array<ArrayBuffer>> = {
  "a Git LFS pointer": bytes("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9"),
  "a web page": bytes("<!DOCTYPE html><title>404"),
  "a GGUF file": bytes("GGUF\x03\0\0\0"),
  "a safetensors file": bytes(`${String.fromCharCode(HEADER.length)}\0\0\0\0\0\0\0${HEADER}`),
  "an archive of keys and values": bytes("TPAR\x09\0\0\0"),
  "an activation trace": bytes("TIDEEXP1\0\0\0\0"),
  "a zip archive": bytes("PK\x03\x04"),
  "a key in PEM": bytes("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"),
};

interface Loader {
  /** What it reads, which is no mistake. */
  own?: string;
  load(file: string, given: Uint8Array<ArrayBuffer>): unknown;
}

const expected = { fingerprint: "f00d", layers: 2, experts: 8, hiddenSize: 6 };

/** Each as the command and the page call it. */
const LOADERS: Record<string, Loader> = {
  "a learned predictor": { load: (file, given) => LearnedPredictor.read(file, given, expected) },
  "an activation trace": { own: "an activation trace", load: readActivations },
  "a trace": { load: async (file, given) => parseTrace(file, await decodeTraceBytes(given)) },
  "an archive": {
    own: "an archive of keys and values",
    load: async (file) => {
      try {
        return decodeArchive(await readBytes(file));
      } catch (error) {
        throw inFile(file, error);
      }
    },
  },
  "a JSON file": { load: (file) => jsonFile(file) },
  "a private key": { load: (file) => privateKeyIn(file) },
  "a public key": { load: (file) => publicKeyOf(file) },
  "a GGUF model": {
    own: "a GGUF file",
    load: (file, given) => openModel([openBytes(given, `${file}.gguf`)]),
  },
};

let folder: string;
beforeAll(async () => void (folder = await mkdtemp(join(tmpdir(), "tidepool-kinds-"))));
afterAll(() => rm(folder, { recursive: true }));

describe.each(Object.entries(LOADERS))("%s", (_what, { own, load }) => {
  const others = Object.entries(FILES).filter(([kind]) => kind !== own);

  test.each(others)("is not %s", async (kind, given) => {
    const file = join(folder, "given");
    await writeFile(file, given);
    const error = await Promise.resolve()
      .then(() => load(file, given))
      .then(
        () => undefined,
        (each: unknown) => each,
      );
    expect(error).toMatchObject({ code: expect.stringMatching(/invalid_(file|argument)/) as string });
    const { message } = error as Error;
    expect(message).toContain(file);
    expect(message).toContain(`is ${kind}`);
    expect(message).toMatch(/expected|should end|git lfs pull|download it again/);
  });

  test("is not empty", async () => {
    const file = join(folder, "empty");
    await writeFile(file, "");
    const loading = Promise.resolve().then(() => load(file, new Uint8Array()));
    await expect(loading).rejects.toThrow(file);
  });
});
