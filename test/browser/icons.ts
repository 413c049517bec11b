/**
 * The icons of the installed page, as PNG from demo/public/icon.svg: drawn by Chromium, like the screenshots, and by the
 * same command. The maskable one fills its square with the icon's own ground and keeps the drawing in the middle, since
 * platforms cut it to their shapes.
 */
import { readFileSync, writeFileSync } from "node:fs";
import type { Browser } from "playwright";
import { packPng } from "../support/png.ts";

const FOLDER = "demo/public";
const GROUND = "#0f766e";

const ICONS = [
  { name: "icon-192.png", size: 192, ground: "transparent", share: 100 },
  { name: "icon-512.png", size: 512, ground: "transparent", share: 100 },
  { name: "icon-maskable-512.png", size: 512, ground: GROUND, share: 80 },
];

export async function drawIcons(browser: Browser): Promise<void> {
  const svg = readFileSync(`${FOLDER}/icon.svg`, "utf8");
  for (const { name, size, ground, share } of ICONS) {
    const page = await browser.newPage({ viewport: { width: size, height: size } });
    const drawing = `svg { display: block; width: ${share}%; margin: ${(100 - share) / 2}% }`;
    await page.setContent(
      `<style>body { display: flow-root; margin: 0; background: ${ground} } ${drawing}</style>${svg}`,
    );
    const png = packPng(await page.screenshot({ omitBackground: true }));
    console.log(`${FOLDER}/${name}: ${png.length} bytes`);
    writeFileSync(`${FOLDER}/${name}`, png);
    await page.close();
  }
}
