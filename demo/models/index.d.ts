export { tideDense } from "./tide-dense.js";
export { tideHybrid } from "./tide-hybrid.js";
export { tideMoe } from "./tide-moe.js";
