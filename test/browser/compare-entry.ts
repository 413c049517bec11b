/** The policy comparison alone on a page, without the shell, model and engine. */
import "../../demo/page/page.css";
import { compareView } from "../../demo/compare/index.ts";
import { recordRequest } from "../../demo/compare/recorded.ts";

/** What tests call. */
export interface CompareTests {
  record: (sequence: number[], inputTokens: number) => Promise<boolean>;
}

const tests: CompareTests = {
  record: (sequence, inputTokens) => recordRequest(Int32Array.from(sequence), inputTokens),
};
Object.assign(window, { compareTests: tests });

const main = Object.assign(document.createElement("main"), { className: "view" });
main.append(compareView());
document.body.append(main);
