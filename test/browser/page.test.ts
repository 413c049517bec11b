/**
 * The built page in headless Chromium, served cross-origin isolated: choosing a model, streaming, stopping, errors and
 * the way on from them. It builds nothing: `vite build` comes before it (PAGE names another folder than dist/page).
 */
import { existsSync, readFileSync } from "node:fs";
import type { Browser, Locator, Page } from "playwright";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { launchChromium, PATIENT_MS } from "../support/chromium.ts";
import { fullTest } from "../support/full.ts";
import { serveFolders, type FileServer } from "../support/serve.ts";
import { sharedPath, sharedPresent, skipLoudly } from "../support/shared.ts";

const FOLDER = process.env["PAGE"] ?? "dist/page";
const MODEL = "goldens/stories260K/model.gguf";
const PROMPT = "Once upon a time";

let browser: Browser;
let server: FileServer;
let page: Page;
/** What the console and uncaught errors said. */
let complaints: string[] = [];

beforeAll(async () => {
  if (!existsSync(`${FOLDER}/index.html`))
    throw new Error(`${FOLDER} has no built page: npx vite build makes it`);
  server = await serveFolders({
    "": FOLDER,
    ...(sharedPresent && { stories: sharedPath("goldens/stories260K") }),
  });
  browser = await launchChromium();
}, PATIENT_MS);

afterAll(async () => {
  await browser?.close();
  await server?.close();
});

beforeEach(async () => {
  page = await browser.newPage();
  page.setDefaultTimeout(PATIENT_MS);
  complaints = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
});

afterEach(async () => {
  await page.close();
  expect(complaints).toEqual([]);
});

const named = (role: Parameters<Page["getByRole"]>[0], name: string | RegExp): Locator =>
  page.getByRole(role, { name });
const message = (): Locator => page.locator("#message");
const answer = (): Locator => page.getByRole("article").last();
const settingsPanel = (): Locator => page.locator("summary", { hasText: /^Settings$/ });
const note = (): Locator => answer().locator(".note");

async function choose(...files: Parameters<Locator["setInputFiles"]>): Promise<void> {
  await page.getByLabel("Model files").setInputFiles(...files);
}

/** Loads the small stories model, or the given form of it, and sets greedy sampling. */
async function loadStories(maxTokens: number, file?: UploadedFile): Promise<void> {
  await choose(file ?? sharedPath(MODEL));
  await page.locator(".facts").waitFor();
  await settingsPanel().click();
  await page.getByLabel("Temperature").fill("0");
  await page.getByLabel("Max tokens").fill(String(maxTokens));
}

async function ask(text: string): Promise<void> {
  await message().fill(text);
  await message().press("Enter");
}

interface UploadedFile {
  name: string;
  mimeType: string;
  buffer: Buffer;
}

const uploaded = (name: string, buffer: Buffer): UploadedFile => ({
  name,
  mimeType: "application/octet-stream",
  buffer,
});

/**
 * The stories model with a chat template: one more metadata entry before the others. Its length is a multiple of the
 * format's alignment, so that the tensors stay aligned.
 */
function chatFile(): UploadedFile {
  const KEYS_AT = 24; // after magic, version, and the counts of tensors and entries
  const ALIGNMENT = 32;
  const STRING = 8;
  const key = Buffer.from("tokenizer.chat_template");
  const template = "{% for message in messages %}{{ message.content }}\n{% endfor %}";
  const bare = 8 + key.length + 4 + 8 + template.length;
  const value = Buffer.from(
    template.padEnd(template.length + (((-bare % ALIGNMENT) + ALIGNMENT) % ALIGNMENT), "\n"),
  );
  const entry = Buffer.alloc(8 + key.length + 4 + 8);
  entry.writeBigUInt64LE(BigInt(key.length), 0);
  key.copy(entry, 8);
  entry.writeUInt32LE(STRING, 8 + key.length);
  entry.writeBigUInt64LE(BigInt(value.length), 8 + key.length + 4);
  const model = readFileSync(sharedPath(MODEL));
  const head = Buffer.from(model.subarray(0, KEYS_AT));
  head.writeBigUInt64LE(head.readBigUInt64LE(16) + 1n, 16);
  return uploaded("chat.gguf", Buffer.concat([head, entry, value, model.subarray(KEYS_AT)]));
}

const goldenText = (): string => {
  const cases = JSON.parse(readFileSync(sharedPath("goldens/stories260K/golden.json"), "utf8")) as {
    prompt: string;
    text: string;
  }[];
  const golden = cases.find(({ prompt }) => prompt === PROMPT);
  if (!golden) throw new Error("the golden prompt is gone");
  return golden.text;
};

describe("without a model", () => {
  test("the page is isolated, and every control has a role and a name", async () => {
    await page.goto(server.address);
    expect(await page.evaluate(() => crossOriginIsolated)).toBe(true);
    await named("heading", "Tidepool").waitFor();
    await page.getByLabel("Model files").waitFor();
    await named("textbox", "Message").waitFor();
    await settingsPanel().click();
    await named("textbox", "System prompt").waitFor();
    for (const name of ["Temperature", "Top-p", "Top-k", "Max tokens", "Seed"])
      await named("spinbutton", name).waitFor();
    await named("log", "Conversation").waitFor();
    const nameless = await page
      .locator("button, input, textarea, summary")
      .evaluateAll((all) =>
        all.filter((one) => !((one as HTMLInputElement).labels?.length || one.textContent || one.ariaLabel)),
      );
    expect(nameless).toEqual([]);
  });

  test("a file that is no model is refused with its reason, and the chooser stays", async () => {
    await page.goto(server.address);
    await choose(uploaded("broken.gguf", Buffer.from("this is no model")));
    await named("alert", "").filter({ hasText: "Could not load broken.gguf" }).waitFor();
    expect(await page.getByLabel("Model files").isEnabled()).toBe(true);
  });

  test("a browser without WebGPU is told so in one sentence", async () => {
    await page.addInitScript(() => Object.defineProperty(Navigator.prototype, "gpu", { value: undefined }));
    await page.goto(server.address);
    expect(await page.getByRole("alert").textContent()).toContain("This browser has no WebGPU");
    expect(await page.getByRole("textbox").count()).toBe(0);
    expect(await page.getByRole("navigation").count()).toBe(0);
  });
});

const GPU_CASES = 5;
if (!sharedPresent) skipLoudly("the page with a model", GPU_CASES);

describe.skipIf(!sharedPresent)("with a model", { timeout: 3 * PATIENT_MS }, () => {
  test("a chosen file is loaded, and its text streams and equals the golden one", async () => {
    await page.goto(server.address);
    await loadStories(60);
    expect(await page.locator(".facts").textContent()).toMatch(/llama.*Adapter.*KV pool/);
    await countStates();
    await ask(PROMPT);
    await note().filter({ hasText: "60 tokens" }).waitFor();
    const text = await answer().locator(".text").textContent();
    expect(text?.length).toBeGreaterThan(100);
    expect(goldenText().slice(0, text?.length)).toBe(text);
    expect(await page.evaluate(() => states.size)).toBeGreaterThan(10);
    expect(await note().textContent()).toMatch(/60 tokens · [\d.]+ tokens\/s · first after [\d.]+ s/);
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await named("button", "Copy").click();
    await named("button", "Copied").waitFor();
    expect(await page.evaluate(() => navigator.clipboard.readText())).toBe(PROMPT + text);
  });

  test("an embedding model says what it is for, and is sent nothing", async () => {
    await page.goto(server.address);
    await choose(sharedPath("goldens/models/bertmean/model.gguf"));
    await page.locator(".welcome").filter({ hasText: "makes vectors of texts" }).waitFor();
    expect(await page.locator(".facts").textContent()).toMatch(/bert.*Vectors\d+ numbers a text/);
    await ask("Is anybody there?");
    expect(await page.getByRole("article").count()).toBe(0);
    expect(await named("button", "Send").isDisabled()).toBe(true);
  });

  fullTest(
    "Escape and the button stop an answer in the middle; retry and a new conversation work",
    async () => {
      await page.goto(server.address);
      await loadStories(400);
      await page.getByLabel("Temperature").fill("9");
      await ask(PROMPT);
      expect(await page.getByRole("article").count()).toBe(0); // a setting out of range is shown, and nothing is sent
      expect(await message().inputValue()).toBe(PROMPT);
      await page.getByLabel("Temperature").fill("0");
      await ask(PROMPT);
      await answer().locator(".text").filter({ hasText: "there was" }).waitFor();
      await page.keyboard.press("Escape");
      await note().filter({ hasText: "stopped" }).waitFor();
      const stopped = (await answer().locator(".text").textContent()) ?? "";
      expect(stopped.length).toBeLessThan(goldenText().length);
      expect(goldenText().startsWith(stopped)).toBe(true);

      await named("button", "Retry").click();
      await answer().locator(".text").filter({ hasText: "there was" }).waitFor();
      await named("button", "Stop").click();
      await note().filter({ hasText: "stopped" }).waitFor();
      expect(await page.getByRole("article").count()).toBe(1);

      await named("button", "New conversation").click();
      expect(await page.getByRole("article").count()).toBe(0);
      expect(await message().evaluate((one) => one === document.activeElement)).toBe(true);
    },
  );

  test("a model with a chat template chats over two turns", async () => {
    await page.goto(server.address);
    await loadStories(12, chatFile());
    await page.getByLabel("Message", { exact: true }).waitFor();
    for (const [index, text] of ["Tell me of Lily.", "And of Tom?"].entries()) {
      await ask(text);
      await note().filter({ hasText: "12 tokens" }).waitFor();
      expect(await named("article", "Answer").count()).toBe(index + 1);
      expect((await answer().locator(".text").textContent())?.length).toBeGreaterThan(5);
    }
    expect(await page.getByRole("log").textContent()).toMatch(/You: Tell me of Lily.*You: And of Tom/s);
  });

  test("a broken file costs neither the page nor the model; an address loads too", async () => {
    await page.goto(server.address);
    const broken = uploaded("broken.gguf", readFileSync(sharedPath(MODEL)).subarray(0, 5000));
    await choose(broken);
    await page.getByRole("alert").filter({ hasText: "broken.gguf" }).waitFor();
    await page.getByLabel("Or an address").fill(`${server.address}stories/model.gguf`);
    await named("button", "Load").click();
    await page.locator(".facts").waitFor();
    expect(await page.getByRole("alert").filter({ hasText: "broken.gguf" }).count()).toBe(0);

    await page.getByText("Another model").click();
    await choose(broken);
    await page.getByRole("alert").filter({ hasText: "broken.gguf" }).waitFor();
    await message().fill(PROMPT);
    await named("button", "Send").click();
    await answer().locator(".text").filter({ hasText: "there was" }).waitFor();
    await page.keyboard.press("Escape");
    await note().filter({ hasText: "stopped" }).waitFor();
  });
});

const SHIPPED = "tide-dense";
const shipped = existsSync(`demo/models/${SHIPPED}.gguf`);
if (!shipped) console.warn(`SKIPPED 2 cases of the page: demo/models has no ${SHIPPED}.gguf`);

test.skipIf(!shipped)(
  "the first message loads the shipped model and is answered by it",
  { timeout: 2 * PATIENT_MS },
  async () => {
    await page.goto(server.address);
    await named("button", `Use ${SHIPPED}`).waitFor();
    await settingsPanel().click();
    await page.getByLabel("Max tokens").fill("8");
    await ask("What is in the harbour? ".repeat(12).trim()); // some full blocks, so that the second time finds them
    await note().filter({ hasText: "tokens" }).waitFor();
    expect(await answer().locator(".origin").textContent()).toMatch(/^prompt (\d+) tokens: \1 computed$/);
    await named("button", "Retry").click();
    const again = answer().locator(".origin").filter({ hasText: "prompt" });
    expect(await again.textContent()).toMatch(
      /^prompt \d+ tokens: .*\d+ from (the GPU|memory|disk).* computed$/,
    );
    expect((await named("article", "Answer").locator(".text").textContent())?.length).toBeGreaterThan(0);
  },
);

test.skipIf(!shipped)(
  "storage that lasts is asked for once a model is there; what the storage lacks is shown",
  { timeout: PATIENT_MS },
  async () => {
    await page.addInitScript(() => {
      globalThis.asked = 0;
      StorageManager.prototype.persisted = () => Promise.resolve(false);
      StorageManager.prototype.persist = () => Promise.resolve(++globalThis.asked > 0);
    });
    await page.addInitScript(() =>
      // What the page's service worker answers cannot be changed on its way.
      Object.defineProperty(Navigator.prototype, "serviceWorker", { value: undefined }),
    );
    await page.route("**/assets/worker-*.js", async (route) => {
      const response = await route.fetch();
      const refuse = "StorageManager.prototype.getDirectory = () => Promise.reject(new Error('refused'));";
      await route.fulfill({ response, body: `${refuse}\n${await response.text()}` });
    });
    await page.goto(server.address);
    expect(await page.evaluate(() => asked)).toBe(0);
    for (const open of [() => Promise.resolve(), () => page.getByText("Another model").click()]) {
      await open();
      await named("button", `Use ${SHIPPED}`).click();
      await page.getByText(`Loading ${SHIPPED}`, { exact: true }).waitFor();
      await page.locator(".facts").waitFor();
      await page.locator(".notice").filter({ hasText: "stored in its database" }).waitFor();
    }
    expect(await page.locator(".notice").count()).toBe(1);
    expect(await page.evaluate(() => asked)).toBe(1);
  },
);

declare global {
  /** In the page: every text that an answer has shown. */
  var states: Set<string>;
  /** In the page: how often storage that lasts was asked for. */
  var asked: number;
}

/** Collects what answers show from now on. */
async function countStates(): Promise<void> {
  await page.evaluate(() => {
    globalThis.states = new Set();
    const look = () => states.add(document.querySelector(".answer .text")?.textContent ?? "");
    new MutationObserver(look).observe(document.body, { childList: true, subtree: true });
  });
}
