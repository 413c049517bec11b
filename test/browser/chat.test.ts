/**
 * The page's chat in headless Chromium with the shipped model and real storage: conversations that last, edits, documents,
 * files, hostile text, full storage, a second tab; and on every view axe and the keyboard. It builds nothing (PAGE names
 * another folder than dist/page).
 */
import { existsSync, readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import AxeBuilder from "@axe-core/playwright";
import type { Browser, BrowserContext, Locator, Page } from "playwright";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { launchChromium, PATIENT_MS } from "../support/chromium.ts";
import { fullTest, IS_FULL } from "../support/full.ts";
import { serveFolders, type FileServer } from "../support/serve.ts";

const FOLDER = process.env["PAGE"] ?? "dist/page";
const FIRST_LOAD_BYTES_LIMIT = 300_000;
const SHIPPED = existsSync("demo/models/tide-dense.gguf");
const PHONE = { width: 360, height: 740 };
const DESKTOP = { width: 1280, height: 800 };

let browser: Browser;
let server: FileServer;
let context: BrowserContext;
let page: Page;
/** What the console and uncaught errors said. */
let complaints: string[] = [];

beforeAll(async () => {
  if (!existsSync(`${FOLDER}/index.html`))
    throw new Error(`${FOLDER} has no built page: npx vite build makes it`);
  server = await serveFolders({ "": FOLDER });
  browser = await launchChromium();
}, PATIENT_MS);

afterAll(async () => {
  await browser?.close();
  await server?.close();
});

async function openPage(): Promise<Page> {
  const made = await context.newPage();
  made.setDefaultTimeout(PATIENT_MS);
  made.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  made.on("pageerror", (error) => complaints.push(String(error)));
  return made;
}

beforeEach(async () => {
  complaints = [];
  context = await browser.newContext({ viewport: DESKTOP, reducedMotion: "reduce" });
  page = await openPage();
});

afterEach(async () => {
  await context.close();
  expect(complaints).toEqual([]);
});

const named = (role: Parameters<Page["getByRole"]>[0], name: string | RegExp): Locator =>
  page.getByRole(role, { name });
const answers = (): Locator => page.getByRole("article", { name: "Answer" });
const origin = (): Locator => answers().last().locator(".origin");
const listed = (): Locator => named("navigation", "Conversations").getByRole("listitem");

/** Greedy, or as the model's stories need it. */
async function sampling(maxTokens: number): Promise<void> {
  await page.locator("summary", { hasText: /^Settings$/ }).click();
  await page.getByLabel("Temperature").fill("0");
  await page.getByLabel("Max tokens").fill(String(maxTokens));
}

/** Sends a message and waits for its answer's numbers. */
async function ask(text: string): Promise<string> {
  const before = await answers().count();
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.keyboard.press("Enter");
  await answers().nth(before).locator(".origin").waitFor();
  return (await answers().nth(before).locator(".text").textContent()) ?? "";
}

const file = (name: string, text: string) => ({ name, mimeType: "", buffer: Buffer.from(text) });

const SHIPS = ["Marlow", "Tern", "Osprey", "Brannock", "Sallow", "Petrel", "Dunlan", "Erlvin"];
const LOG = SHIPS.map(
  (ship, i) =>
    `The ${ship} carries ${["salt", "rope", "coal", "wool"][i % 4]}.\nThe pass code of the ${ship} is ${4000 + 731 * i}.\n`,
).join("");

async function attach(name: string, text: string): Promise<void> {
  await page.getByLabel("Documents").setInputFiles(file(name, text));
}

/** A conversation as a file, with one answered turn. */
function exported(prompt: string, answer: string, title = "Imported"): string {
  const usage = {
    promptTokens: 9,
    computedTokens: 9,
    completionTokens: 3,
    cachedTokens: { gpu: 0, ram: 0, disk: 0 },
  };
  const timing = { ttftMs: 1, prefillTokensPerSecond: 1, decodeTokensPerSecond: 1 };
  const given = { text: answer, tokens: [1, 2, 3], model: "m", finishReason: "stop", usage, timing };
  const turns = [{ shape: "answer", prompt, documents: [], answer: given }];
  const head = {
    format: "tidepool-conversation",
    version: 1,
    title,
    isNamed: true,
    system: "",
    createdAtMs: 1,
  };
  return JSON.stringify({ ...head, turns });
}

async function bringIn(text: string, on = page): Promise<void> {
  await on.getByLabel("Conversation files").setInputFiles(file("conversation.json", text));
}

/** Waits until what was computed is on the disk, as the cache view tells. */
async function drained(): Promise<void> {
  await named("link", "Cache").click();
  const disk = page.locator(".tier").filter({ hasText: "Disk" });
  await disk.filter({ hasText: /[1-9]\d* records/ }).waitFor();
  await expect.poll(() => disk.textContent(), { timeout: PATIENT_MS }).not.toContain("being written");
  await named("link", "Chat").click();
  await page.waitForURL(/#\/chat\/./); // the open conversation's own address
}

if (!SHIPPED) console.warn("SKIPPED 3 cases of the chat: demo/models has no tide-dense.gguf");

describe.skipIf(!SHIPPED)("with the shipped model", { timeout: 2 * PATIENT_MS }, () => {
  test("conversations outlive a reload with what was computed; a document is read once; an edit keeps its prefix", async () => {
    await page.goto(server.address);
    await sampling(8);
    await attach("log.md", LOG);
    await ask("What does the Dunlan carry?");
    const documentTokens = Number(/prompt (\d+)/.exec((await origin().textContent()) ?? "")?.[1]);
    expect(documentTokens).toBeGreaterThan(100);
    expect(await origin().textContent()).toMatch(/: \d+ computed$/);
    await named("button", "New conversation").click();
    await ask("Who are you?");
    await drained();
    await page.reload();
    await listed().nth(1).waitFor();
    expect(await listed().count()).toBe(2);
    expect(await page.locator(".prompt").last().textContent()).toContain("Who are you?");

    await named("link", /What does the Dunlan carry/).click();
    await page.locator(".prompt", { hasText: "log.md" }).waitFor();
    expect(await page.getByLabel("Max tokens").inputValue()).toBe("8");
    await ask("What does the Erlvin carry?");
    expect(await answers().count()).toBe(2);
    expect(await origin().textContent()).toMatch(/\d+ from disk/);
    console.log("after a reload:", await origin().textContent());

    await page.locator(".question").first().hover();
    await named("button", "Edit this message").first().click();
    await page.getByRole("textbox", { name: "Edit this message" }).fill("What does the Sallow carry?");
    await named("button", "Ask again").click();
    await expect.poll(() => page.getByRole("article").count()).toBe(1);
    await origin().waitFor();
    console.log("after an edit:", await origin().textContent());
    const kept = /(\d+) from the GPU/.exec((await origin().textContent()) ?? "")?.[1];
    expect(Number(kept)).toBeGreaterThan(documentTokens / 2);
    expect(await page.locator(".prompt").textContent()).toMatch(/log\.md.*What does the Sallow carry/);
  });

  test("stop, retry, a system prompt, a document too long; a request goes on while another conversation is read", async () => {
    await page.goto(server.address);
    await sampling(300);
    await page.getByLabel("System prompt").fill("You are Tide. The notes of the day follow. Answer briefly.");
    const input = page.getByLabel("Message", { exact: true });
    await input.fill("Tell me a story.");
    await atFirstText("click");
    await page.keyboard.press("Enter");
    await answers().locator(".note").filter({ hasText: "stopped" }).waitFor();
    await atFirstText("Escape");
    await named("button", "Retry").click();
    await answers().locator(".note").filter({ hasText: "stopped" }).waitFor();
    await named("button", "Retry").click();
    await named("button", "New conversation").click();
    expect(await answers().count()).toBe(0);
    await listed().first().getByRole("link").click();
    await answers().locator(".note").filter({ hasText: "tokens/s" }).waitFor();
    expect(await answers().count()).toBe(1);
    expect(await page.getByLabel("System prompt").inputValue()).toContain("You are Tide");

    await named("button", "New conversation").click();
    expect(await page.getByLabel("System prompt").inputValue()).toBe("");
    await attach("long.txt", LOG.repeat(20));
    await page.locator(".box .size", { hasText: "tokens" }).waitFor();
    await page.getByRole("alert").filter({ hasText: "leave room for an answer" }).waitFor();
    await input.fill("What does the Tern carry?");
    await page.keyboard.press("Enter");
    const refused = page.getByRole("alert").filter({ hasText: "attach a shorter document" });
    await refused.waitFor();
    const reason = await refused.textContent();
    await attach("photo.txt", "\0\0");
    await page.getByRole("alert").filter({ hasText: "photo.txt is not text" }).waitFor();
    await page.reload();
    await refused.waitFor();
    expect(await refused.textContent()).toBe(reason);
  });

  fullTest(
    "a document that does not fit is refused when it is attached, and its beginning can be kept",
    async () => {
      await page.goto(server.address);
      await sampling(8);
      const purpose = page.locator(".composer .purpose");
      expect(await purpose.textContent()).toMatch(/^tide-dense is a small demonstration model/);
      await attach("long.txt", LOG.repeat(20));
      const tight = page.getByRole("alert").filter({ hasText: "leave room for an answer" });
      expect(await tight.count()).toBe(0); // no model is loaded that could count
      await named("button", "Use tide-dense").click();
      await tight.waitFor();
      await named("button", "Keep the part that fits").click();
      await page.locator(".box .document", { hasText: "long.txt (first part)" }).waitFor();
      await tight.waitFor({ state: "detached" });
      const tokens = Number(
        /[\d,]+/.exec((await page.locator(".box .size").textContent()) ?? "")?.[0].replace(",", ""),
      );
      expect(tokens).toBeGreaterThan(1800);
      await page.getByLabel("Message", { exact: true }).fill("What does the Tern carry?");
      await page.keyboard.press("Enter");
      await page.locator(".prompt", { hasText: "long.txt (first part)" }).waitFor();
      await named("button", "Stop").click(); // it was not refused: how long reading takes is not the question
      await answers().locator(".note").filter({ hasText: "stopped" }).waitFor();
    },
  );

  test("axe finds nothing serious on any view, and the keyboard reaches everything", async () => {
    await page.goto(server.address);
    await walk();
    await sampling(8);
    await page.locator("summary", { hasText: "Debug" }).click();
    await page.locator(".facts-debug", { hasText: "Isolated" }).waitFor();
    await attach("log.md", LOG);
    await ask("What does the Dunlan carry?");
    for (const [index, name] of ["Chat", "Cache", "Compare", "Race"].entries()) {
      await named("link", name).click();
      await page.locator(`[data-view="${name.toLowerCase()}"] > *`).waitFor();
      if (name === "Cache") {
        await page.locator(".numbers td").first().waitFor();
        await named("button", "List records").click();
        await page.getByRole("status").filter({ hasText: "records" }).waitFor();
      }
      const schemes = ["light", "dark"] as const;
      for (const colorScheme of IS_FULL ? schemes : schemes.slice(index % 2).slice(0, 1))
        await inspectWithAxe(name, colorScheme);
    }
  });
});

/** Stops the next answer, by the button or the key, as soon as it has text: a click from outside may come too late. */
async function atFirstText(how: "click" | "Escape"): Promise<void> {
  await page.evaluate((how) => {
    const look = new MutationObserver(() => {
      if (!document.querySelector(".answer[aria-busy] .text")?.textContent) return;
      look.disconnect();
      if (how === "click") document.querySelector<HTMLElement>('[aria-label="Stop"]')?.click();
      else document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
    });
    look.observe(document.body, { childList: true, subtree: true, characterData: true });
  }, how);
}

/** Skip link, views, and the side panels as drawers, without a mouse. */
async function walk(): Promise<void> {
  const press = (key: string): Promise<void> => page.keyboard.press(key);
  const focused = (): Promise<string> =>
    page.evaluate(() => document.activeElement?.ariaLabel ?? document.activeElement?.textContent ?? "");
  await page.getByLabel("Message", { exact: true }).waitFor();
  await press("Tab");
  expect(await focused()).toBe("Skip to the content");
  await press("Enter");
  expect(await page.evaluate(() => document.activeElement?.id)).toBe("main");
  await named("link", "Chat").focus();
  await press("Tab");
  await press("Enter");
  await page.getByText("No model is loaded").waitFor();
  expect(await page.title()).toBe("Cache · Tidepool");
  await press("Shift+Tab");
  await press("Enter");
  await page.getByLabel("Message", { exact: true }).waitFor();

  await page.setViewportSize(PHONE);
  await named("button", "Model and settings").focus();
  await press("Enter");
  expect(await focused()).toBe("Close model and settings");
  await press("Escape");
  expect(await focused()).toBe("Model and settings");
  await named("button", "Conversations").focus();
  await press("Enter");
  await press("Tab");
  expect(await focused()).toBe("New conversation");
  await press("Enter");
  expect(await page.evaluate(() => document.activeElement?.id)).toBe("message");
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(PHONE.width);
  await page.setViewportSize(DESKTOP);
}

async function inspectWithAxe(view: string, colorScheme: "light" | "dark"): Promise<void> {
  await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
  const { violations } = await new AxeBuilder({ page }).analyze();
  const grave = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  const told = grave.map(
    ({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 120)).join(" | ")}`,
  );
  expect(told, `${view}, ${colorScheme}`).toEqual([]);
}

describe("without a model", { timeout: PATIENT_MS }, () => {
  test("the first load is small", async () => {
    let [total, compressed] = [0, 0];
    const bodies: Promise<Buffer>[] = [];
    page.on("response", (response) => bodies.push(response.body()));
    await page.goto(server.address);
    await page.getByLabel("Message", { exact: true }).waitFor();
    for (const body of await Promise.all(bodies)) {
      total += body.length;
      compressed += gzipSync(body).length;
    }
    console.log(`first load: ${bodies.length} files, ${total} bytes, ${compressed} compressed`);
    expect(compressed).toBeLessThan(FIRST_LOAD_BYTES_LIMIT);
  });

  test("Markdown is drawn, and nothing in it becomes markup, a script or a request", async () => {
    const requests: string[] = [];
    page.on("request", (request) => requests.push(request.url()));
    const hostile = [
      '<script>window.hacked = 1</script> <img src="x" onerror="window.hacked = 1">',
      "[script](javascript:window.hacked=1) [data](data:text/html,x) [site](https://example.org/a)",
      "![picture](https://example.org/tracker.png)",
      '<iframe srcdoc="x"></iframe>\n\n<b onclick="x">bold</b>',
      "# Title\n\n- one\n- **two** `code`\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n```html\n<script>window.hacked = 1</script>\n```",
    ].join("\n\n");
    await page.goto(server.address);
    await bringIn(exported(hostile, hostile));
    await answers().waitFor();
    expect(await page.locator(".log").locator("script, img, iframe, b").count()).toBe(0);
    expect(
      await page
        .locator(".log *")
        .evaluateAll((all) => all.filter((one) => one.matches("[onerror], [onclick], [srcdoc]")).length),
    ).toBe(0);
    const links = answers().locator("a");
    expect(await links.count()).toBe(1);
    expect(await links.getAttribute("href")).toBe("https://example.org/a");
    expect(await links.getAttribute("rel")).toBe("noopener noreferrer");
    for (const [tag, text] of [
      ["h3", "Title"],
      ["li strong", "two"],
      ["td.to-right", "2"],
      ["pre code", "<script>window.hacked = 1</script>"],
    ])
      expect(
        await answers()
          .locator(tag ?? "")
          .textContent(),
      ).toBe(text);
    expect(await page.evaluate(() => "hacked" in globalThis)).toBe(false);
    expect(requests.filter((url) => !url.startsWith(server.address))).toEqual([]);
  });

  test("export, rename, delete and import; a wrong file says what is wrong", async () => {
    await page.goto(server.address);
    await bringIn(exported("What is *it*?", "It is **salt**."));
    await answers().locator("strong").waitFor();
    await named("button", "Rename Imported").click();
    await page.getByLabel("New title").fill("Cargo");
    await page.keyboard.press("Enter");
    await named("heading", "Cargo").waitFor();
    const [download] = await Promise.all([page.waitForEvent("download"), named("button", "Export").click()]);
    expect(download.suggestedFilename()).toBe("Cargo.json");
    const text = readFileSync(await download.path(), "utf8");
    await named("button", "Delete Cargo").click();
    await page.getByRole("button", { name: "Delete", exact: true }).click();
    await expect.poll(() => listed().count()).toBe(0);
    await page.reload();
    await named("heading", "Ask, and ask again").waitFor();
    await bringIn(text);
    await page.locator(".prompt", { hasText: "What is *it*?" }).waitFor();
    await listed().filter({ hasText: "Cargo" }).waitFor();
    await bringIn(text.replace('"shape": "answer"', '"shape": "poem"'));
    await page.getByRole("alert").filter({ hasText: '"turns[0].shape" is not one of' }).waitFor();
    await page.reload();
    await page.locator(".prompt", { hasText: "What is *it*?" }).waitFor();
  });

  test("full storage: what is on the screen stays, and is kept when there is room again", async () => {
    await page.goto(server.address);
    const session = await context.newCDPSession(page);
    const { origin } = new URL(server.address);
    await session.send("Storage.overrideQuotaForOrigin", { origin, quotaSize: 50_000 });
    await bringIn(exported("x".repeat(3_000_000), "It is salt.", "Large"));
    await page.getByRole("alert").filter({ hasText: "The browser's storage is full" }).waitFor();
    expect(await answers().textContent()).toContain("It is salt.");
    await listed().filter({ hasText: "on this page only" }).waitFor();
    await named("button", "New conversation").click();
    await named("link", /Large/).click();
    expect(await answers().textContent()).toContain("It is salt.");
    await session.send("Storage.overrideQuotaForOrigin", { origin });
    await named("button", "Try again").click();
    await expect.poll(() => page.getByText("on this page only").count()).toBe(0);
    expect(await page.getByRole("alert").filter({ hasText: "storage is full" }).count()).toBe(0);
    await page.reload();
    await answers().waitFor();
  });

  fullTest(
    "a second tab shows what the first has written, and a dropped document waits in the composer",
    async () => {
      await page.goto(server.address);
      const other = await openPage();
      await other.goto(server.address);
      await other.getByLabel("Message", { exact: true }).waitFor();
      await bringIn(exported("Question", "Answer one"));
      await other.getByRole("link", { name: /Imported/ }).click();
      await other.locator(".prompt", { hasText: "Question" }).waitFor();
      await named("button", "Rename Imported").click();
      await page.getByLabel("New title").fill("Renamed");
      await page.keyboard.press("Enter");
      await other.getByRole("heading", { name: "Renamed" }).waitFor();

      const dropped = await page.evaluateHandle(() => {
        const data = new DataTransfer();
        data.items.add(new File(["Some notes."], "notes.md"));
        return data;
      });
      await page.dispatchEvent("body", "drop", { dataTransfer: dropped });
      await page.locator(".box .document", { hasText: "notes.md" }).waitFor();
      await named("button", "New conversation").click();
      expect(await page.locator(".box .document").count()).toBe(0);
      await named("link", /Renamed/).click(); // what was not sent waits where it was written
      await named("button", "Remove notes.md").click();
      expect(await page.locator(".box .document").count()).toBe(0);
    },
  );
});
