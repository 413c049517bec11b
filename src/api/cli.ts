/**
 * The `tidepool` command's entry. A command that opens the GPU runs in a process of its own beneath this one (supervise.ts
 * says why), all others here.
 */
import process from "node:process";
import { needsSupervision, supervise } from "./supervise.ts";

const words = process.argv.slice(2);
if (needsSupervision(words)) await supervise(words);
else await (await import("./program.ts")).main();
