/**
 * The page's service worker: keeps the page's own files, so that the page opens without a network, and hands over to a
 * newer version of itself. `vite.config.ts` builds it and puts the list of files in. Responses are kept with their headers,
 * and so with the page's isolation and policy. It keeps no model (src/load does) and answers for nothing that is not on
 * its list: all else goes to the network as if it were not there.
 */
import { cleanupOutdatedCaches, matchPrecache, precacheAndRoute } from "workbox-precaching";
import { TAKE_OVER } from "./take-over.ts";

/** The page's files; without a revision where the name changes with the content. */
declare const PAGE_FILES: { url: string; revision: string | null }[];

/** What is used of the worker's scope, which the DOM's types do not have. */
interface Scope {
  registration: ServiceWorkerRegistration;
  clients: { matchAll(): Promise<unknown[]>; claim(): Promise<void> };
  skipWaiting(): Promise<void>;
  addEventListener(type: "activate" | "fetch", run: (event: WorkerEvent) => void): void;
  addEventListener(type: "message", run: (event: WorkerEvent & { data: unknown }) => void): void;
}

interface WorkerEvent {
  request: Request;
  respondWith(response: Promise<Response>): void;
  waitUntil(work: Promise<unknown>): void;
}

const scope = globalThis as unknown as Scope;

/** How often this worker hands one visit over before it answers itself. */
const MAX_HAND_OVERS = 3;
let handOvers = 0;

/** When an empty page that was not notified of the new version loads again. */
const HAND_OVER_SECONDS = 5;

/**
 * A page that asks for no icon and goes on when the new version has taken over. It waits for that instead of loading again
 * at once, because a visit would wake this worker, and only while it sleeps can another take its place.
 */
const EMPTY = `<!doctype html><link rel="icon" href="data:,"><script>
const workers = navigator.serviceWorker, goOn = () => location.reload();
workers.addEventListener("controllerchange", goOn, { once: true });
workers.getRegistration().then((registration) => registration?.waiting || goOn());
</script>`;

/** The only tab opens the page anew: it goes to the new version, by way of an empty page that is loaded again. */
async function openNewest(waiting: ServiceWorker, request: Request): Promise<Response> {
  const [tabs, page] = await Promise.all([scope.clients.matchAll(), matchPrecache("index.html")]);
  if (tabs.length > 1 || !page) return page ?? fetch(request);
  waiting.postMessage(TAKE_OVER);
  const headers = new Headers(page.headers); // isolated as the page is: the tab keeps its process
  headers.delete("Content-Length");
  headers.set("Content-Security-Policy", "default-src 'none'; script-src 'unsafe-inline'; img-src data:");
  headers.set("Refresh", String(HAND_OVER_SECONDS));
  return new Response(EMPTY, { headers });
}

scope.addEventListener("fetch", (event) => {
  const { waiting } = scope.registration;
  if (event.request.mode !== "navigate" || !waiting || handOvers === MAX_HAND_OVERS) return;
  handOvers++;
  event.respondWith(openNewest(waiting, event.request));
});
scope.addEventListener("message", (event) => {
  if (event.data === TAKE_OVER) event.waitUntil(scope.skipWaiting());
});
scope.addEventListener("activate", (event) => event.waitUntil(scope.clients.claim()));

cleanupOutdatedCaches();
precacheAndRoute(PAGE_FILES, { cleanURLs: false, ignoreURLParametersMatching: [/./] });
