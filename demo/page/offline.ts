/**
 * The page without a network, and its new versions: starts the service worker of the built page once the page is there, and
 * says quietly when a newer version has arrived. On the dev server there is none. What the worker keeps stands in
 * service-worker.ts.
 */
/// <reference types="vite/types/importMeta.d.ts" />
import { background } from "./background.ts";
import { button, el, iconButton } from "./dom.ts";
import { TAKE_OVER } from "./take-over.ts";

/** How often a page that stays open asks for a new version, at most. */
const ASK_EVERY_MS = 3_600_000;

let refusal: string | undefined;

/** Whether the page would open without a network, in words. */
export async function offlineText(): Promise<string> {
  const workers = serviceWorkers();
  if (!workers) return "no: this browser has no service workers here";
  if (!import.meta.env.PROD) return "no: the dev server's page is not kept";
  if (refusal !== undefined) return `no: ${refusal}`;
  return (await workers.getRegistration())?.active ? "yes" : "not yet";
}

function serviceWorkers(): ServiceWorkerContainer | undefined {
  return (navigator as { serviceWorker?: ServiceWorkerContainer }).serviceWorker;
}

/** Keeps the page for visits without a network. The element says when there is a new version. */
export function keepOffline(): HTMLElement {
  const words = el("span");
  const bar = el("p", { class: "newer", role: "status" });
  const workers = serviceWorkers();
  if (!workers || !import.meta.env.PROD) return bar;
  const close = iconButton("close", "Not now", () => bar.replaceChildren(), { class: "plain", bare: true });
  const tell = (): void => {
    words.textContent = "A new version is ready.";
    bar.replaceChildren(
      words,
      button("Reload", () => background(toNewest(workers))),
      close,
    );
  };
  const start = (): void => background(register(workers, tell));
  if (document.readyState === "complete") start();
  else addEventListener("load", start, { once: true });
  return bar;
}

async function register(workers: ServiceWorkerContainer, tell: () => void): Promise<void> {
  if (workers.controller) workers.addEventListener("controllerchange", tell); // another tab went to the new version
  try {
    const registration = await workers.register(new URL("sw.js", document.baseURI));
    watch(registration, workers, tell);
  } catch (error) {
    refusal = error instanceof Error ? error.message : String(error); // the page works without; the debug panel says why
  }
}

function watch(
  registration: ServiceWorkerRegistration,
  workers: ServiceWorkerContainer,
  tell: () => void,
): void {
  if (registration.waiting && workers.controller) tell();
  registration.addEventListener("updatefound", () => {
    const { installing } = registration;
    installing?.addEventListener("statechange", () => {
      if (installing.state === "installed" && workers.controller) tell();
    });
  });
  let askedAtMs = performance.now();
  document.addEventListener("visibilitychange", () => {
    if (document.hidden || performance.now() - askedAtMs < ASK_EVERY_MS) return;
    askedAtMs = performance.now();
    background(registration.update().catch(() => undefined)); // without a network there is nothing new
  });
}

/** Loads the page anew, in its newest version also where other tabs are open. */
async function toNewest(workers: ServiceWorkerContainer): Promise<void> {
  const waiting = (await workers.getRegistration())?.waiting;
  if (!waiting) return location.reload();
  workers.addEventListener("controllerchange", () => location.reload(), { once: true });
  waiting.postMessage(TAKE_OVER);
}
