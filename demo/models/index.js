// All shipped models. A bundler of pages that meets this file emits all of them: a page that needs one imports
// "tidepool-models/tide-dense" and the like.
export { tideDense } from "./tide-dense.js";
export { tideHybrid } from "./tide-hybrid.js";
export { tideMoe } from "./tide-moe.js";
