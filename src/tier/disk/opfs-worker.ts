/**
 * Entry of the storage worker: serves an OPFS backend to whoever started it (opfs-start.ts). The first message says which
 * folder; all later ones are requests (remote.ts).
 */
import { openOpfsBackend } from "./opfs.ts";
import { serveBackend, type Port } from "./remote.ts";

export interface OpfsSettings {
  folder: string;
  segmentBytes?: number;
}

const configure = (event: MessageEvent): void => {
  const { folder, ...options } = event.data as OpfsSettings;
  serveBackend(globalThis as unknown as Port, () => openOpfsBackend(folder, options));
};

globalThis.addEventListener("message", configure, { once: true });
