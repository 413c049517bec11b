/** The built command as a person runs it, on real models, in processes of its own. */
import { execFile, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { fullTest, IS_FULL } from "../support/full.ts";
import { readmeExample } from "../support/readme.ts";
import { writeGguf, type WriteValue } from "../support/gguf-writer.ts";
import { sharedPath, sharedPresent, skipLoudly } from "../support/shared.ts";
import { tinyEncoder } from "../support/tiny-encoder.ts";
import { byteLevelVocab } from "../support/tiny-vocab.ts";
import { serveUnreliably } from "../support/unreliable-server.ts";

const folder = mkdtempSync(join(tmpdir(), "tidepool-cli-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const LIMIT_MS = 240_000;

interface Ended {
  code: number;
  out: string;
  err: string;
}

const runNode = (args: string[]): Promise<Ended> => ended(process.execPath, args);

function ended(file: string, args: string[], input = ""): Promise<Ended> {
  return new Promise((resolve) => {
    const done = (error: { code?: unknown } | null, out: string, err: string): void =>
      resolve({ code: typeof error?.code === "number" ? error.code : error ? 1 : 0, out, err });
    const child = execFile(file, args, { timeout: LIMIT_MS, maxBuffer: 2 ** 26 }, done);
    child.stdin?.end(input);
  });
}

const shell = (text: string): Promise<Ended> => ended("bash", ["-c", text]);

const tidepool = (...args: string[]): Promise<Ended> => runNode(["dist/lib/cli.js", ...args]);

/** A new signing key in a file, which must be its owner's alone and is not written over. */
async function newKey(name: string): Promise<{ file: string; publicKey: string }> {
  const file = join(folder, name);
  const { code, out } = await tidepool("cache", "keygen", "--out", file);
  expect([code, out, statSync(file).mode & 0o777]).toEqual([
    0,
    expect.stringMatching(/^[\w-]{43}\n$/),
    0o600,
  ]);
  const again = await tidepool("cache", "keygen", "--out", file);
  expect([again.code, again.err]).toEqual([1, expect.stringContaining("exists, expected a new file")]);
  return { file, publicKey: out.trim() };
}

interface RunJson {
  text: string;
  tokens: number[];
  finishReason: string;
  usage: {
    promptTokens: number;
    completionTokens: number;
    computedTokens: number;
    cachedTokens: { disk: number };
  };
  timing: { ttftMs: number };
}

/** About 20 blocks of 32 tokens of the shipped model. */
const DOCUMENT = "The Marigold came in at noon with nine crates of salt for the keeper. ".repeat(20);

describe("a look at a header over a network that fails", { timeout: LIMIT_MS }, () => {
  const messages = join(folder, "messages.json");
  writeFileSync(messages, JSON.stringify([{ role: "user", content: "Where is the brig?" }]));

  it.each([
    ["inspect", ["--json"]],
    ["tokenize", ["The tide", "--json"]],
    ["render", ["--messages", messages, "--json"]],
  ])("is told by %s at the first failure and each time, beside clean output", async (name, rest) => {
    const server = await serveUnreliably({ "/model.gguf": readFileSync("demo/models/tide-dense.gguf") });
    server.behave = ({ index }) => (index < 2 ? { status: 503 } : undefined);
    const { code, out, err } = await tidepool(name, `${server.address}/model.gguf`, ...rest);
    await server.close();
    expect([code, typeof JSON.parse(out)]).toEqual([0, "object"]);
    const failed = err.split("\n").filter((line) => line.includes("failed"));
    expect(failed.map((line) => line.replace(/ in \d+ s$/, ""))).toEqual(
      [1, 2].map(
        (n) =>
          `tidepool: ${new URL(server.address).host} answered HTTP 503: failed ${n} of 5 times, trying again`,
      ),
    );
  });
});

describe("the command on the shipped model", { timeout: LIMIT_MS }, () => {
  it("answers with one argument", async () => {
    const { code, out, err } = await tidepool("run", "The harbour was quiet and", "--max-tokens", "12");
    expect(code).toBe(0);
    expect(out.trim().length).toBeGreaterThan(5);
    expect(err.split("\n").filter((line) => line !== "" && !line.startsWith("tidepool: "))).toEqual([]);
  });

  it("answers the first command of the README in whole sentences, and ends by itself", async () => {
    const command = /^npm ci && npm run --silent tidepool -- (.*?) +#/m.exec(
      readFileSync("README.md", "utf8"),
    )?.[1];
    const { code, out } = await shell(`node dist/lib/cli.js ${command}`);
    expect([code, out]).toEqual([0, expect.stringMatching(/^[A-Z][\w ,'.-]{30,400}\.\n$/)]);
    const { finishReason } = JSON.parse(
      (await shell(`node dist/lib/cli.js ${command} --json`)).out,
    ) as RunJson;
    expect(finishReason).toBe("stop");
  });

  it("runs the cache example of the README, whose second command takes blocks from disk", async () => {
    const text = readmeExample("cache").replaceAll("npm run --silent tidepool --", "node dist/lib/cli.js");
    // a busy machine may compute two blocks sooner than it reads them
    const load = `${join(folder, "cache-example")} --restore load`;
    const { code, out, err } = await shell(text.replaceAll(".cache/kv", load));
    expect([code, out]).toEqual([0, "It is salt.\nIt is 12.\n"]);
    const fromDisk = [...err.matchAll(/(\d+) from disk/g)].map(([, tokens]) => Number(tokens));
    expect(fromDisk).toEqual([0, 32]);
  });

  it("reads a prompt from standard input, and says nothing when its reader leaves", async () => {
    const args = ["--max-tokens", "4", "--temperature", "0", "--json"];
    const given = await tidepool("run", "The tide was low and", ...args);
    const piped = await ended(
      process.execPath,
      ["dist/lib/cli.js", "run", ...args],
      "The tide was low and\n",
    );
    expect((JSON.parse(piped.out) as RunJson).tokens).toEqual((JSON.parse(given.out) as RunJson).tokens);
    const cut = await shell(
      `set -o pipefail; node dist/lib/cli.js run tide-dense "The harbour was" --temperature 0 --max-tokens 1000 | head -c 5`,
    );
    expect([cut.code, cut.out.length]).toEqual([0, 5]);
    expect(cut.err).not.toMatch(/EPIPE|at .*\.js|Error/);
  });

  it("ends with the process that started it", async () => {
    const args = [
      "dist/lib/cli.js",
      "run",
      "x",
      "--temperature",
      "0",
      "--max-tokens",
      "2000",
      "--chunk-tokens",
      "32",
    ];
    const above = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "ignore"] });
    await new Promise((resolve) => above.stdout.once("data", resolve));
    above.kill("SIGTERM");
    const closed = new Promise<void>((resolve) => above.stdout.on("close", () => resolve())); // by both processes
    const [signal] = await Promise.all([
      new Promise((resolve) => above.on("exit", (_, by) => resolve(by))),
      closed,
    ]);
    expect(signal).toBe("SIGTERM");
  });

  it("doctor says what is here, and fails with the command that helps where nothing can run", async () => {
    const { code, out } = await tidepool("doctor", "--json", "--cache-dir", join(folder, "none"));
    const found = JSON.parse(out) as {
      runs: boolean;
      adapter: { limits: object[] };
      storage: { cache: object };
    };
    expect([code, found.runs]).toEqual([0, true]);
    expect(found.adapter.limits).toHaveLength(3);
    expect(found.storage.cache).toMatchObject({ exists: false, isWritable: true });
    if (process.platform !== "linux") return;
    const hidden = await shell("VK_DRIVER_FILES=/none node dist/lib/cli.js doctor");
    expect([hidden.code, hidden.out]).toEqual([1, expect.stringMatching(/offers no adapter[^]*install/i)]);
    const refused = await shell("VK_DRIVER_FILES=/none node dist/lib/cli.js run x");
    expect([refused.code, refused.err]).toEqual([1, expect.stringMatching(/offers no adapter[^]*install/i)]);
  });

  it("refuses a wrong flag before a model starts", async () => {
    const { code, err } = await tidepool("run", "no-such-model.gguf", "x", "--max-tokens", "0");
    expect([code, err.split("\n")[0]]).toEqual([
      1,
      expect.stringContaining("'--max-tokens <n>' argument '0'"),
    ]);
  });

  it("shows in a second process what the first one left, and gives the same answer", async () => {
    const args = [
      "run",
      "tide-dense",
      DOCUMENT,
      "--max-tokens",
      "8",
      "--temperature",
      "0",
      "--json",
      "--restore",
      "load", // "auto" computes some of it where the machine is busy and the disk late
      "--cache-dir",
      join(folder, "kv"),
    ];
    const cold = JSON.parse((await tidepool(...args)).out) as RunJson;
    const warm = JSON.parse((await tidepool(...args)).out) as RunJson;
    expect(cold.usage.computedTokens).toBe(cold.usage.promptTokens);
    expect(warm.usage.cachedTokens.disk).toBe(Math.floor((warm.usage.promptTokens - 1) / 32) * 32);
    expect(warm.tokens).toEqual(cold.tokens);
    console.log(
      `time to first token: cold ${cold.timing.ttftMs.toFixed(0)} ms, from disk ${warm.timing.ttftMs.toFixed(0)} ms`,
    );
  });

  it("lists, checks and clears what is stored, and carries it as one file", async () => {
    const at = ["--cache-dir", join(folder, "one")];
    const [mine, theirs] = [await newKey("mine.pem"), await newKey("theirs.pem")];
    const other = ["--cache-dir", join(folder, "other")];
    const file = join(folder, "prefix.tide");
    expect(
      (await tidepool("cache", "export", "tide-dense", DOCUMENT, "--out", file, "--sign", mine.file, ...at))
        .out,
    ).toMatch(/^\d+ blocks, \d+ bytes/);
    const alice = ["--namespace", "alice", ...other];
    const refused = await tidepool("cache", "import", file, "--trust", theirs.publicKey, ...alice);
    expect([refused.code, refused.err]).toEqual([
      1,
      expect.stringContaining(`signed by ${mine.publicKey}, not`),
    ]);
    writeFileSync(join(folder, "mine.pub"), `${mine.publicKey}\n`);
    const trust = ["--trust", theirs.publicKey, "--trust", join(folder, "mine.pub")];
    const imported = new RegExp(`^[1-9]\\d* records imported, 0 refused; signed by ${mine.publicKey}\n$`);
    expect((await tidepool("cache", "import", file, ...trust, ...alice)).out).toMatch(imported);
    const list = async () => (await tidepool("cache", "ls", ...other)).out.trim().split("\n");
    const keysOfAlice = (await list()).map((line) => line.split(" ")[0]);
    expect((await tidepool("cache", "import", file, ...other)).out).toMatch(imported);
    expect(await list()).toHaveLength(2 * keysOfAlice.length - 1); // the last line counts
    await tidepool("cache", "clear", ...alice);
    expect((await list()).map((line) => line.split(" ")[0])).not.toEqual(
      expect.arrayContaining(keysOfAlice.slice(0, 1)),
    );
    expect(await list()).toHaveLength(keysOfAlice.length);
    expect((await tidepool("cache", "verify", ...other)).out).toMatch(/^[1-9]\d* records checked, none bad/);
    const stats = JSON.parse((await tidepool("cache", "stats", "--json", ...other)).out) as {
      disk: { records: number };
    };
    expect(stats.disk.records).toBeGreaterThan(5);
    const warm = await tidepool("run", "tide-dense", DOCUMENT, "--max-tokens", "2", "--json", ...other);
    expect((JSON.parse(warm.out) as RunJson).usage.cachedTokens.disk).toBeGreaterThan(0);
    await tidepool("cache", "clear", ...other);
    expect((await tidepool("cache", "ls", ...other)).out.trim()).toBe("0 records");
  });

  it("runs the library example of the README", async () => {
    const code = readmeExample("library").replace(
      '"tidepool"',
      JSON.stringify(`${process.cwd()}/dist/lib/index.js`),
    );
    const file = join(folder, "example.mjs");
    const directory = JSON.stringify(join(folder, "example-kv"));
    writeFileSync(file, code.replaceAll('".cache/kv"', `${directory}, restore: "load"`));
    const runs = [await runNode([file]), await runNode([file])];
    for (const { code, err } of runs)
      expect([code, err.replaceAll(/^Warning: maxDynamic.*\n/gm, "")]).toEqual([0, ""]);
    expect(runs.map(({ out }) => out)).toEqual([
      "It is salt.\n76 prompt tokens, 0 of them from disk\n",
      "It is salt.\n76 prompt tokens, 64 of them from disk\n",
    ]);
  });

  it("names what is wrong, and ends with 1", async () => {
    const missing = await tidepool("run", "no-such-model.gguf", "x");
    expect([missing.code, missing.err]).toEqual([1, expect.stringContaining("no-such-model.gguf")]);
    const long = await tidepool("run", "tide-dense", "word ".repeat(3000));
    expect([long.code, long.err]).toEqual([1, expect.stringMatching(/over the limit of \d+ tokens/)]);
    const option = await tidepool("run", "tide-dense", "x", "--block-tokens", "17");
    expect([option.code, option.err]).toEqual([
      1,
      expect.stringContaining("'--block-tokens <n>' argument '17'"),
    ]);
  });
});

if (!sharedPresent) skipLoudly("the command on given models", IS_FULL ? 4 : 3);

describe("the command on a vocabulary", { timeout: LIMIT_MS }, () => {
  const write = (name: string, value: string | Uint8Array): string => {
    writeFileSync(join(folder, name), value);
    return join(folder, name);
  };

  it("renders conversations with content parts, tools and variables, without weights", async () => {
    const template =
      "{{ tools | tojson if tools else 'none' }}{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}" +
      "{% if add_generation_prompt %}>{% endif %}";
    const metadata = [
      ...byteLevelVocab("gpt-2", { words: ["Hi"] }),
      ["tokenizer.chat_template", template],
    ] as [string, WriteValue][];
    const model = write("vocabulary.gguf", writeGguf({ metadata: Object.fromEntries(metadata) }));
    const parts = ["H", "i <|im_end|>"].map((text) => ({ type: "text", text }));
    const messages = write("messages.json", JSON.stringify([{ role: "user", content: parts }]));
    const plain = await tidepool("render", model, "--messages", messages);
    expect([plain.code, plain.err, plain.out]).toEqual([0, "", "none<|im_start|>Hi <|im_end|><|im_end|>>"]);
    const tool = '{"type":"function","function":{"name":"f","parameters":{"default":1.0,"minimum":-1e-07}}}';
    const tools = ["--tools", write("tools.json", `[${tool}]`)];
    const vars = ["--template-vars", write("vars.json", '{"add_generation_prompt":false}')];
    const more = await tidepool("render", model, "--messages", messages, ...tools, ...vars, "--json");
    const { text, tokens } = JSON.parse(more.out) as { text: string; tokens: number[] };
    expect(text).toBe(
      `[${tool.replaceAll(":", ": ").replaceAll(",", ", ")}]<|im_start|>Hi <|im_end|><|im_end|>`,
    );
    // The template's end token counts as one, that of the message does not.
    expect(tokens.filter((id) => id === 3).length).toBe(1);
    const missing = await tidepool("render", model, "--messages", join(folder, "missing.json"));
    expect(missing.code).toBe(1);
  });
});

describe("the command on an encoder", { timeout: LIMIT_MS }, () => {
  const model = join(folder, "encoder.gguf");
  writeFileSync(model, tinyEncoder());

  it("prints a vector for each text, cut and of length 1", async () => {
    const { code, out } = await tidepool(
      "embed",
      model,
      "the boat",
      "sea",
      "--dimensions",
      "8",
      "--task",
      "query",
    );
    const vectors = JSON.parse(out) as number[][];
    expect([code, vectors.map((vector) => vector.length)]).toEqual([0, [8, 8]]);
    for (const vector of vectors) expect(Math.hypot(...vector)).toBeCloseTo(1, 5);
  });

  it("names what is wrong in flags, and says what a model is for", async () => {
    const errors = [
      await tidepool("embed", model, "sea", "--dimensions", "4000"),
      await tidepool("embed", model),
      await tidepool("embed", model, "the sea ".repeat(60)),
      await tidepool("run", model, "the sea"),
      await tidepool("embed", "tide-dense", "the sea"),
    ];
    const expected = [
      "--dimensions is 4000, expected 1 to 32",
      "embed needs either texts or --tokens-file",
      "text 0: 122 tokens are over the limit of 64",
      '"gemma-embedding" makes vectors of texts and generates none: use embed',
      '"qwen3" makes no vectors of texts, because its file names no pooling',
    ];
    for (const [index, { code, err }] of errors.entries()) {
      expect(code).toBe(1);
      expect(err).toContain(expected[index]);
    }
  });
});

describe.skipIf(!sharedPresent)("the command on given models", { timeout: LIMIT_MS }, () => {
  it("continues stories260K with the published text", async () => {
    const model = sharedPath("goldens/stories260K/model.gguf");
    const stories = JSON.parse(readFileSync(sharedPath("goldens/stories260K/golden.json"), "utf8")) as {
      prompt: string;
      greedyTokens: number[];
      text: string;
    }[];
    for (const { prompt, greedyTokens, text } of IS_FULL ? stories : stories.slice(0, 1)) {
      const { out } = await tidepool(
        "run",
        model,
        prompt,
        "--max-tokens",
        String(greedyTokens.length),
        "--temperature",
        "0",
        "--json",
      );
      const result = JSON.parse(out) as RunJson;
      expect([result.text, result.tokens]).toEqual([text, greedyTokens]);
      expect(result.usage.completionTokens).toBe(greedyTokens.length);
    }
  });

  it("writes the logits of given tokens", async () => {
    const golden = sharedPath("goldens/models/llama");
    const file = join(folder, "logits.f32");
    const tokens = ["--tokens-file", `${golden}/golden.json`];
    const { out } = await tidepool("score", `${golden}/model.gguf`, ...tokens, "--logits", file, "--json");
    const { perplexity } = JSON.parse(out) as { perplexity: number };
    const want = JSON.parse(readFileSync(`${golden}/golden.json`, "utf8")) as { perplexity: number };
    expect(perplexity / want.perplexity).toBeCloseTo(1, 4);
    const [got, expected] = [file, `${golden}/logits.f32`].map(
      (name) => new Float32Array(readFileSync(name).buffer.slice(0)),
    );
    expect(got?.length).toBe(expected?.length);
    const worst = Math.max(
      ...[...(expected as Float32Array)].map((value, index) => Math.abs(value - (got?.[index] as number))),
    );
    expect(worst).toBeLessThan(1e-3);
  });

  fullTest("prints the vectors of token lists, exact and in their order", async () => {
    const golden = sharedPath("goldens/models/bertmean");
    const tokens = ["--tokens-file", `${golden}/golden.json`, "--no-normalise", "--dtype", "f32"];
    const { out } = await tidepool("embed", `${golden}/model.gguf`, ...tokens, "--json");
    const got = (JSON.parse(out) as number[][]).flat();
    const expected = new Float32Array(Uint8Array.from(readFileSync(`${golden}/float64.f32`)).buffer);
    expect(got.length).toBe(expected.length);
    expect(Math.max(...got.map((value, i) => Math.abs(value - (expected[i] as number))))).toBeLessThan(1e-4);
  });

  it("tokenises and inspects vocabulary-only files", async () => {
    const vocabulary = sharedPath("goldens/tokenizers/qwen2.gguf");
    expect((await tidepool("tokenize", vocabulary, "", "--json")).out.trim()).toBe("[]");
    expect((await tidepool("tokenize", vocabulary, "Hello world", "--json")).out.trim()).toBe("[9707,1879]");
    const report = await tidepool("inspect", vocabulary);
    expect([report.code, report.out]).toEqual([
      0,
      expect.stringContaining("no: qwen2.gguf: the tensor token_embd.weight is missing"),
    ]);
  });
});
