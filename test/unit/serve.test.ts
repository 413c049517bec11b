/** The file server of the browser tests: ranges, isolation, and nothing from outside its folders. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { serveFolders, type FileServer } from "../support/serve.ts";

const root = mkdtempSync(join(tmpdir(), "tidepool-serve-"));
let server: FileServer;

beforeAll(async () => {
  mkdirSync(join(root, "open"));
  writeFileSync(join(root, "open/digits.bin"), "0123456789");
  writeFileSync(join(root, "open/empty.bin"), "");
  writeFileSync(join(root, "secret"), "secret");
  symlinkSync(join(root, "secret"), join(root, "open/link"));
  server = await serveFolders({ open: join(root, "open") }, { "/page.html": "<p>page</p>" });
});

afterAll(async () => {
  await server.close();
  rmSync(root, { recursive: true });
});

const get = (path: string, range?: string): Promise<Response> =>
  fetch(server.address + path, range === undefined ? {} : { headers: { range } });

/** Asks for a path as it stands, which fetch would normalise. */
const statusOf = (path: string): Promise<number | undefined> =>
  new Promise((done, fail) => {
    const { hostname, port } = new URL(server.address);
    request({ hostname, port, path }, (response) => {
      response.resume();
      done(response.statusCode);
    })
      .on("error", fail)
      .end();
  });

test("a file and a page come whole, cross-origin isolated", async () => {
  const file = await get("open/digits.bin");
  expect(await file.text()).toBe("0123456789");
  expect(file.headers.get("cross-origin-opener-policy")).toBe("same-origin");
  expect(file.headers.get("cross-origin-embedder-policy")).toBe("require-corp");
  expect(await (await get("page.html")).text()).toBe("<p>page</p>");
  expect(await (await get("open/empty.bin")).text()).toBe("");
});

test("a range comes as 206 with its place", async () => {
  const part = await get("open/digits.bin", "bytes=2-4");
  expect([part.status, await part.text()]).toEqual([206, "234"]);
  expect(part.headers.get("content-range")).toBe("bytes 2-4/10");
  expect(await (await get("open/digits.bin", "bytes=7-")).text()).toBe("789");
  expect(await (await get("open/digits.bin", "bytes=7-99")).text()).toBe("789");
  expect((await get("open/digits.bin", "bytes=10-")).status).toBe(416);
});

test("nothing comes from outside: no parent, no link, no folder", async () => {
  expect(await statusOf("/open/../secret")).toBe(404);
  expect(await statusOf("/open/%2e%2e/secret")).toBe(404);
  expect(await statusOf("/open/%2e%2e%2fsecret")).toBe(404);
  expect(await statusOf("/open/link")).toBe(404);
  expect(await statusOf("/open/")).toBe(404);
  expect(await statusOf("/secret")).toBe(404);
  expect(await statusOf("/%ff")).toBe(404);
});
