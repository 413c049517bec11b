/**
 * The packed packages in the hands of those who use them: README.md's examples in pages built by Vite and by webpack, in a
 * plain page with the library on another origin, in Vite's dev server, in Node and in Deno; and the types.
 */
import { execFile } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import type { Browser } from "playwright";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { build, createServer } from "vite";
import webpack from "webpack";
import { launchChromium, PATIENT_MS } from "../support/chromium.ts";
import { fullTest, IS_FULL } from "../support/full.ts";
import { command, findDeno } from "../support/machine.ts";
import { readmeExample } from "../support/readme.ts";
import { serveFolders } from "../support/serve.ts";
import { installPacked, type Consumer } from "./packed.ts";
import { measureSize, type CodeSize } from "./size.ts";

/** What tide-dense says greedily in the examples; that it says what PyTorch says is tested elsewhere. */
const ANSWER = " the porter could not find the plank. The sea was grey";
/** Without an icon of its own a page would be told that there is none. */
const ICON = '<link rel="icon" href="data:,">';
const HTML = `<!doctype html>${ICON}<output></output>`;

const run = promisify(execFile);
let consumer: Consumer;
let browser: Browser;

beforeAll(async () => {
  [consumer, browser] = await Promise.all([installPacked(), launchChromium()]);
}, PATIENT_MS);

afterAll(async () => {
  await browser?.close();
  consumer?.remove();
});

const packed = (...path: string[]): string => join(consumer.root, "node_modules", ...path);

/** All text that the page's output gets until it has as much as `expected`; what went wrong there fails the test. */
async function outputOf(address: string, expected: string): Promise<string> {
  const page = await browser.newPage();
  const complaints: string[] = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()))
      complaints.push(`${message.text()} ${message.location().url}`);
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  try {
    await page.goto(address);
    const output = page.locator("output");
    const until = Date.now() + PATIENT_MS;
    let text = "";
    while (text.length < expected.length && complaints.length === 0 && Date.now() < until) {
      await page.waitForTimeout(50);
      text = (await output.textContent()) ?? "";
    }
    expect(complaints).toEqual([]);
    return text;
  } finally {
    await page.close();
  }
}

/** Serves a folder and gives what its page puts out. */
async function outputOfFolder(folder: string, expected: string): Promise<string> {
  const server = await serveFolders({ "": folder });
  try {
    return await outputOf(server.address, expected);
  } finally {
    await server.close();
  }
}

async function buildWithVite(root: string): Promise<string> {
  await build({ root, configFile: false, logLevel: "error" });
  return join(root, "dist");
}

/** Builds main.js; what webpack complains of fails the test. */
async function buildWithWebpack(root: string): Promise<string> {
  const path = join(root, "dist");
  const compiler = webpack({
    mode: "production",
    context: root,
    entry: "./main.js",
    output: { path },
    performance: false,
    optimization: { minimize: false }, // half a minute on a busy machine, and not what is tested
  });
  const stats = await new Promise<webpack.Stats>((done, fail) =>
    compiler.run((error, result) =>
      result ? done(result) : fail(error ?? new Error("webpack says nothing")),
    ),
  );
  await new Promise<void>((done) => compiler.close(() => done()));
  const { errors = [], warnings = [] } = stats.toJson({ all: false, errors: true, warnings: true });
  expect([...errors, ...warnings].map(({ message }) => message)).toEqual([]);
  return path;
}

const viteProject = (name: string, files: Record<string, string>): string =>
  consumer.project(name, { "index.html": `${HTML}<script type="module" src="/main.js"></script>`, ...files });

/** README.md's plain page, with the library below another address. */
const plainPage = (from: string): string =>
  readmeExample("plain-page").replaceAll("https://cdn.example", from).replace("<output>", `${ICON}<output>`);

describe("pages", { timeout: PATIENT_MS }, () => {
  fullTest("built by Vite", async () => {
    const root = viteProject("vite", { "main.js": readmeExample("page") });
    const built = await buildWithVite(root);
    expect(await outputOfFolder(built, ANSWER)).toBe(ANSWER);
    const models = readdirSync(built, { recursive: true }).filter((name) => String(name).endsWith(".gguf"));
    expect(models).toHaveLength(1); // the one that the page imports
  });

  /** Served without the headers that isolate a page, as most are. */
  test("in Vite's dev server", async () => {
    const root = viteProject("vite-dev", { "main.js": readmeExample("page") });
    const exclude = ["tidepool", "tidepool-models"];
    const server = await createServer({
      root,
      configFile: false,
      logLevel: "error",
      optimizeDeps: { exclude },
      server: { host: "127.0.0.1", port: 0, fs: { allow: [consumer.root] } },
    });
    try {
      await server.listen();
      expect(await outputOf(server.resolvedUrls?.local[0] ?? "", ANSWER)).toBe(ANSWER);
    } finally {
      await server.close();
    }
  });

  fullTest("built by webpack", async () => {
    const root = consumer.project("webpack", { "main.js": readmeExample("page") });
    const folder = await buildWithWebpack(root);
    consumer.project("webpack/dist", { "index.html": `${HTML}<script defer src="main.js"></script>` });
    expect(await outputOfFolder(folder, ANSWER)).toBe(ANSWER);
  });

  fullTest("plain, with the library on their own origin", async () => {
    const page = plainPage("");
    const server = await serveFolders({ "": packed() }, { "/": page });
    try {
      expect(await outputOf(server.address, ANSWER)).toBe(ANSWER);
    } finally {
      await server.close();
    }
  });

  test("plain, with the library on another origin and a strict policy", async () => {
    const allow = { "Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin" };
    const library = await serveFolders({ "": packed() }, {}, allow);
    const from = new URL(library.address).origin;
    const page = plainPage(from);
    const policy = `default-src 'none'; script-src 'unsafe-inline' ${from}; connect-src ${from}; worker-src blob: ${from}; img-src data:`;
    const server = await serveFolders({}, { "/": page }, { "Content-Security-Policy": policy });
    try {
      expect(await outputOf(server.address, ANSWER)).toBe(ANSWER);
    } finally {
      await Promise.all([server.close(), library.close()]);
    }
  });

  test("that replay traces in a worker of their own", async () => {
    const root = viteProject("replay", {
      "main.js": readmeExample("replay-page"),
      "replay-worker.js": readmeExample("replay-worker"),
    });
    const text = await outputOfFolder(await buildWithVite(root), "lru 00% marconi 00% ");
    expect(text).toMatch(/^lru \d+% marconi \d+% $/);
  });
});

describe("scripts", { timeout: PATIENT_MS }, () => {
  const script = async (program: "node" | "deno"): Promise<string> => {
    const folder = consumer.project(program, { "script.js": readmeExample("script") });
    const [file, args] = command(program, await findDeno(), "script.js");
    const { stdout } = await run(file, args, { cwd: folder, timeout: PATIENT_MS });
    return stdout;
  };

  test("in Node", async () => expect(await script("node")).toBe(ANSWER));

  test("in Deno", async () => expect(await script("deno")).toBe(ANSWER));

  test("the command finds the shipped models in their package", async () => {
    const { stdout } = await run(process.execPath, [
      packed("tidepool/dist/lib/cli.js"),
      "inspect",
      "tide-dense",
    ]);
    expect(stdout).toContain("qwen3");
  });
});

/** A page's code with types, strict, and with the libraries' own declarations checked. */
const TYPED = `
import { Engine, TidepoolError, type ChatMessage, type GenerateOptions, type GenerationResult } from "tidepool";
import { defaultWorkloads, generate, replaySteps, type ReplayRow } from "tidepool/sim";
import { tideDense } from "tidepool-models/tide-dense";

export async function answer(content: string): Promise<GenerationResult> {
  const engine = await Engine.load(tideDense, { onProgress: ({ phase }) => console.log(phase.length) });
  const messages: ChatMessage[] = [{ role: "user", content }];
  for await (const chunk of engine.chat(messages, { maxTokens: 4 })) console.log(chunk.text.length);
  // @ts-expect-error there is no such option
  engine.generate(content, { maxTokenz: 4 });
  return engine.chat(messages).result();
}
export async function answerOnce(signal: AbortSignal | undefined, directory?: string): Promise<string> {
  await using engine = await Engine.load(tideDense, { signal, onProgress: undefined, cache: { directory } });
  // @ts-expect-error there is no such role
  engine.chat([{ role: "usr", content: "" }]);
  const options: GenerateOptions = { signal, maxTokens: undefined, stop: undefined };
  return (await engine.generate("The tide", options).result()).text;
}
export const isOurs = (error: unknown): boolean => error instanceof TidepoolError && error.code === "aborted";
export const rows = (policy: ReplayRow["policy"]) => replaySteps(generate(defaultWorkloads.chat), { policy, capacity: "inf",
  cost: undefined! });
`;

describe("what is in the package", { timeout: PATIENT_MS }, () => {
  test.each([
    ...(IS_FULL ? [{ module: "esnext", moduleResolution: "bundler" }] : []),
    { module: "nodenext", moduleResolution: "nodenext" },
  ])("types for moduleResolution $moduleResolution, strict, declarations checked", async (resolution) => {
    const compilerOptions = {
      ...resolution,
      target: "es2022",
      lib: ["es2023", "dom", "dom.iterable", "dom.asynciterable"],
      types: [],
      strict: true,
      exactOptionalPropertyTypes: true,
      skipLibCheck: false,
      noEmit: true,
    };
    const folder = consumer.project(`types-${resolution.moduleResolution}`, {
      "tsconfig.json": JSON.stringify({ compilerOptions, files: ["main.ts"] }),
      "main.ts": TYPED,
    });
    const tsc = resolve("node_modules/typescript/bin/tsc");
    const said = run(process.execPath, [tsc, "-p", "."], { cwd: folder }).then(
      ({ stdout }) => stdout,
      (error: { stdout: string }) => error.stdout,
    );
    expect(await said).toBe("");
  });

  test("every target of exports, and no model, page or test", () => {
    const { exports } = JSON.parse(readFileSync(packed("tidepool/package.json"), "utf8")) as {
      exports: object;
    };
    const targets = Object.values(exports).flatMap((target: string | Record<string, string>) =>
      typeof target === "string" ? [target] : Object.values(target),
    );
    expect(targets.filter((target) => !existsSync(packed("tidepool", target)))).toEqual([]);
    expect(readdirSync(packed("tidepool")).sort()).toEqual([
      "CHANGELOG.md",
      "LICENSE",
      "README.md",
      "dist",
      "package.json",
      "src",
    ]);
    expect(readdirSync(packed("tidepool/dist")).sort()).toEqual(["browser", "lib", "types"]);
  });

  test("source maps for all code, and sources for all declarations", () => {
    for (const folder of ["tidepool/dist/lib", "tidepool/dist/browser"])
      for (const file of filesOf(folder, ".js")) {
        const code = readFileSync(file, "utf8");
        const map = /\/\/# sourceMappingURL=(\S+)\s*$/.exec(code)?.[1];
        const isOfNamesOnly = code.replace(/^(import|export) \{.*$/gm, "").trim() === "";
        if (!isOfNamesOnly) expect([file, map]).toEqual([file, expect.any(String)]);
        if (map !== undefined)
          expect(mapOf(join(dirname(file), map)).sourcesContent?.length).toBeGreaterThan(0);
      }
    const declarations = filesOf("tidepool/dist/types", ".d.ts.map");
    expect(declarations.length).toBeGreaterThan(5);
    for (const file of declarations)
      for (const source of mapOf(file).sources)
        expect([source, existsSync(resolve(dirname(file), source))]).toEqual([source, true]);
  });

  test("nothing for Node in what browsers get, and no import that a bundler would split off", () => {
    // Vite makes workers classic scripts unless told otherwise, and those cannot be split.
    for (const file of filesOf("tidepool/dist/browser", ".js")) {
      const code = readFileSync(file, "utf8");
      expect([
        file,
        /(from|import)\s*["'`]node:|(?<![.\w])import\((?!\s*\/\*)[^)]*\)(?!\s*\{)/.exec(code)?.[0],
      ]).toEqual([file, undefined]);
    }
  });
});

const filesOf = (folder: string, ending: string): string[] =>
  readdirSync(packed(folder), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(ending))
    .map((name) => packed(folder, name));

const mapOf = (file: string) =>
  JSON.parse(readFileSync(file, "utf8")) as { sources: string[]; sourcesContent?: string[] };

/** What a page may have to download of the engine's own code, compressed: some fifty architectures, experts off the GPU, and OpenAI's API. */
const MAX_OWN_BYTES = 289_000;

test("the engine's own code stays small", { timeout: PATIENT_MS }, async () => {
  const own = await measureSize({ withDependencies: false });
  const all = await measureSize({ withDependencies: true });
  const said = ({ bytes, gzipBytes, brotliBytes }: CodeSize): string =>
    [bytes, gzipBytes, brotliBytes].map((count) => `${(count / 1000).toFixed(1)} KB`).join(", ");
  console.log(`minified, gzip, brotli: own code ${said(own)}; with dependencies ${said(all)}`);
  expect(own.gzipBytes).toBeLessThan(MAX_OWN_BYTES);
});
