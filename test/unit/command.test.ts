/** The command line before anything starts: words, sizes, flags and their faults, and when a system package may be installed. */
import type { Command } from "commander";
import { describe, expect, test } from "vitest";
import { program } from "../../src/api/program.ts";
import { MAX_STDIN_BYTES, modelAndPrompt, readPrompt } from "../../src/api/prompt.ts";
import { asksToInstall, needsSupervision, NoiseFilter } from "../../src/api/supervise.ts";
import { flagOf, inFlags } from "../../src/api/usage.ts";
import { parseBytes } from "../../src/byte-size.ts";
import { cacheFields, engineFields, generateFields } from "../../src/wire/arguments.ts";

const all = (command: Command): Command[] => [command, ...command.commands.flatMap(all)];
const find = (path: string): Command => {
  const words = path.split(" ");
  return words.reduce((at, word) => at.commands.find((each) => each.name() === word) as Command, program());
};

/** What a command says on standard error of these words; it is not run. */
async function faultOf(...words: string[]): Promise<string> {
  let said = "";
  const root = program();
  for (const command of all(root)) {
    command.exitOverride();
    const { outputError } = command.configureOutput() as {
      outputError: (text: string, write: (text: string) => void) => void;
    };
    command.configureOutput({ writeErr: (text) => (said += text), outputError });
    command.action(() => {});
  }
  await root.parseAsync(words, { from: "user" }).catch(() => {});
  return said;
}

test("sizes: units of 1000 and of 1024, fractions, and nothing else", () => {
  const sizes = {
    "512": 512,
    "1GB": 1e9,
    "14gb": 14e9,
    "1.5GiB": 1.5 * 2 ** 30,
    "2e3": 2000,
    "3 MB": 3e6,
    "7B": 7,
  };
  for (const [text, bytes] of Object.entries(sizes)) expect([text, parseBytes(text)]).toEqual([text, bytes]);
  for (const bad of ["", "GB", "-1", "1XB", "1 000", "1GBs", "0x10", "1e99"])
    expect([bad, parseBytes(bad)]).toEqual([bad, NaN]);
});

describe("faults of a command line", () => {
  test("are one line that names the flag, and a hint", async () => {
    for (const [flag, value] of [
      ["--max-tokens", "0"],
      ["--top-p", "0"],
      ["--min-p", "1"],
      ["--top-k", "-1"],
      ["--temperature", "warm"],
      ["--seed", "1.5"],
      ["--stop", ""],
      ["--memory", "1GX"],
      ["--ram-cache", "lots"],
      ["--block-tokens", "17"],
      ["--chunk-tokens", "0"],
    ] as const) {
      const lines = (await faultOf("run", "x", flag, value)).trim().split("\n");
      expect(lines.length, lines.join("\n")).toBe(2);
      expect(lines[0]).toContain(`tidepool: option '${flag} <`);
      expect(lines[1]).toBe('"tidepool run --help" lists its options');
    }
  });

  test("hint at the help of their own command, in every command", async () => {
    for (const command of all(program()).slice(1)) {
      const path: string[] = [];
      for (let at: Command | null = command; at?.parent; at = at.parent) path.unshift(at.name());
      if (command.commands.length > 0) continue;
      const said = await faultOf(...path, "--no-such-flag");
      expect(said).toMatch(/^tidepool: .+\n/);
      expect(said).toContain(`"tidepool ${path.join(" ")} --help"`);
    }
  });

  test("an option of the library has the name of a flag that is there", () => {
    const flags = new Set(all(program()).flatMap(({ options }) => options.map(({ long }) => long)));
    const options = [
      ...Object.keys(engineFields).filter((name) => !["hub", "models", "cache"].includes(name)),
      ...Object.keys(generateFields).filter((name) => name !== "cache"),
      ...Object.keys(cacheFields).map((name) => `cache.${name}`),
      ...["hub.baseUrl", "hub.token", "models.directory"],
    ];
    const named = options.filter((option) => flagOf(option) !== undefined);
    for (const option of named) expect([option, flags.has(flagOf(option))]).toEqual([option, true]);
    expect(named).toEqual(expect.arrayContaining(["memoryBytes", "kvDtype", "cache.ramBytes", "maxTokens"]));
    expect(inFlags("options.cache.ramBytes is -1, expected bytes; memoryBytes allows 3")).toBe(
      "--ram-cache is -1, expected bytes; --memory allows 3",
    );
    expect(inFlags("the seed of it all is fine, and stop is a word")).toBe(
      "the seed of it all is fine, and stop is a word",
    );
  });
});

test("run samples unless told otherwise, and ends", () => {
  const { temperature, topP, minP, maxTokens, seed } = find("run").opts();
  expect({ temperature, topP, minP, maxTokens, seed }).toEqual({
    ...{ temperature: 0.7, topP: 0.9, minP: 0.05, maxTokens: 200, seed: 0 },
  });
});

describe("the prompt", () => {
  test.each([
    [["Once"], true, { model: "tide-dense", prompt: "Once" }],
    [["tide-hybrid", "Once"], true, { model: "tide-hybrid", prompt: "Once" }],
    [["-"], false, { model: "tide-dense", prompt: undefined }],
    [["tide-hybrid", "-"], false, { model: "tide-hybrid", prompt: undefined }],
    [[], true, { model: "tide-dense", prompt: undefined }],
    [["tide-hybrid"], true, { model: "tide-hybrid", prompt: undefined }],
  ])("of %j, piped %j", ([first, second], isPiped, expected) =>
    expect(modelAndPrompt(first, second, isPiped)).toEqual(expected),
  );

  test("is missed where nothing is piped in", () => {
    expect(() => modelAndPrompt("tide-hybrid", undefined, false)).toThrow(/"tide-hybrid" is a model/);
    expect(() => modelAndPrompt(undefined, undefined, false)).toThrow(/prompt is missing/);
  });

  const piped = async function* (...parts: Uint8Array[]) {
    for (const part of parts) yield await Promise.resolve(part);
  };

  test("from standard input is UTF-8 text in bounds, without its last newline", async () => {
    const bytes = new TextEncoder().encode("Möwe\n\n");
    expect(await readPrompt(piped(bytes.slice(0, 2), bytes.slice(2)))).toBe("Möwe\n");
    await expect(readPrompt(piped(Uint8Array.of(0xff)))).rejects.toThrow(/not UTF-8/);
    await expect(readPrompt(piped())).rejects.toThrow(/nothing/);
    await expect(readPrompt(piped(new Uint8Array(MAX_STDIN_BYTES + 1)))).rejects.toThrow(/more than/);
  });
});

describe("the process above a command", () => {
  const TEXT =
    "Warning: maxDynamicUniformBuffersPerPipelineLayout artificially reduced from 1000000 to 16.\n" +
    "Warning: something else\nWarn\nplain Warning: maxDynamicStorageBuffersPerPipelineLayout artificially reduced x\n" +
    "Warning: maxDynamicStorageBuffersPerPipelineLayout artificially reduced from 1 to 16.\nWarning: max";

  test("passes on all but Dawn's warnings, however the text is cut", () => {
    for (let cut = 0; cut <= TEXT.length; cut++) {
      let passed = "";
      const filter = new NoiseFilter((text) => (passed += text));
      filter.write(TEXT.slice(0, cut));
      filter.write(TEXT.slice(cut));
      filter.end();
      expect(passed).toBe(
        "Warning: something else\nWarn\nplain Warning: maxDynamicStorageBuffersPerPipelineLayout artificially reduced x\nWarning: max",
      );
    }
  });

  test("does not hold back a line that is drawn piece by piece", () => {
    let passed = "";
    const filter = new NoiseFilter((text) => (passed += text));
    filter.write("\r[##--] 3 of 7");
    expect(passed).toBe("\r[##--] 3 of 7");
  });

  test("installs system packages for a checkout's npm script and on request, and never else", () => {
    const root = `${process.cwd()}/`;
    const script = { npm_lifecycle_event: "tidepool", npm_package_json: `${root}package.json` };
    expect(asksToInstall(["run", "x"], script, root)).toBe(true);
    expect(asksToInstall(["doctor"], script, root)).toBe(false);
    expect(asksToInstall(["doctor", "--install"], {}, root)).toBe(true);
    expect(asksToInstall(["run", "x"], {}, root)).toBe(false);
    expect(asksToInstall(["run", "--install"], {}, root)).toBe(false);
    expect(asksToInstall(["run", "x"], { ...script, npm_lifecycle_event: "start" }, root)).toBe(false);
    const installed = "/app/node_modules/tidepool/";
    expect(asksToInstall(["run", "x"], { ...script, npm_package_json: "/app/package.json" }, installed)).toBe(
      false,
    );
    const own = { ...script, npm_package_json: `${installed}package.json` };
    expect(asksToInstall(["run", "x"], own, installed)).toBe(false); // no checkout
  });

  test.runIf(process.platform === "linux")(
    "is there for what opens the GPU, unless all is to be seen",
    () => {
      expect(needsSupervision(["run", "x"])).toBe(true);
      expect(needsSupervision(["cache", "export", "m", "p"])).toBe(true);
      expect(needsSupervision(["run", "x", "--verbose"])).toBe(false);
      expect(needsSupervision(["cache", "ls"])).toBe(false);
      expect(needsSupervision(["--version"])).toBe(false);
      expect(needsSupervision([])).toBe(false);
    },
  );

  test.runIf(process.platform === "linux")(
    "is there for every command that has flags of the engine, and for doctor",
    () => {
      const opensGpu = ({ options }: Command) => options.some(({ long }) => long === "--adapter");
      const named = (command: Command): [string[], Command][] =>
        command.commands.map((one) => [[...(command.name() === "cache" ? ["cache"] : []), one.name()], one]);
      const root = program();
      const all = [...named(root), ...root.commands.filter((one) => one.name() === "cache").flatMap(named)];
      for (const [words, command] of all.filter(([, one]) => one.commands.length === 0))
        expect([words, needsSupervision(words)]).toEqual([words, opensGpu(command) || words[0] === "doctor"]);
    },
  );
});
