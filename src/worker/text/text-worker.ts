/**
 * Entry of the text worker: serves one model's tokenizer and chat template to the engine's worker (client.ts), which
 * ends it when an answer is late. It keeps nothing that would be missed.
 */
import { toWire } from "../../errors.ts";
import { workerScope } from "../../platform/scope.ts";
import type { FromText, ToText } from "./messages.ts";
import { TextService } from "./service.ts";

const scope = workerScope<ToText, FromText>();
let service: TextService | undefined;

scope.listen((message) => scope.post(answer(message)));
scope.post({ type: "ready" });

function answer(message: ToText): FromText {
  try {
    if (message.type === "open") {
      service = new TextService(message.parts);
      return { type: "opened", facts: service.facts };
    }
    if (!service) throw new Error("no file is open");
    return { type: "answer", prompt: service.answer(message.question) };
  } catch (error) {
    return { type: "refused", error: toWire(error) };
  }
}
