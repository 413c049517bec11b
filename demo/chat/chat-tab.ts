/** Puts the chat together: conversations, panels, and what is dropped on the page. */
import { background } from "../page/background.ts";
import { ChatView } from "./chat-view.ts";
import { Conversations } from "./conversation/conversations.ts";
import { debugView } from "../page/debug-view.ts";
import { el } from "../page/dom.ts";
import { acceptDrops } from "../page/drops.ts";
import type { Host } from "../page/model/host.ts";
import { choiceOf, modelView } from "../page/model/model-view.ts";
import { settings } from "./settings.ts";
import type { View } from "../page/shell.ts";

export async function chatTab(host: Host): Promise<View> {
  const conversations = new Conversations();
  const sampling = settings(debugView(host));
  const side = el("section", { class: "side", id: "side", "aria-label": "Model and settings" });
  side.append(modelView(host), sampling.element);
  const chat = new ChatView(host, conversations, sampling, side);
  acceptDrops({
    loadModel: (files) => background(host.load(choiceOf(files))),
    attach: (files) => background(chat.attach(files)),
    importConversations: (files) => background(chat.importFiles(files)),
  });
  await conversations.load();
  return { element: chat.element, open: (id) => chat.open(id) };
}
