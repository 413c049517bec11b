/** What may be embedded in a server: `tidepool/serve`, for Node and Deno. */
export { newKey } from "./bearer.ts";
export { serveHttp } from "./node-server.ts";
export type { RunningServer, ServeOptions } from "./node-server.ts";
export { prefillService } from "./prefill-service.ts";
export type { PrefillService, PrefillServiceOptions } from "./prefill-service.ts";
