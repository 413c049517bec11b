/**
 * The kinds of feed-forwards. A new kind is a file beside this one and a row here.
 */
import { Kinds } from "../layer-part.ts";
import type { FeedForwardKind } from "./kind.ts";
import { EXPERTS } from "./experts.ts";
import { MLP } from "./mlp.ts";

export const FEED_FORWARDS = new Kinds<FeedForwardKind>("feed-forward", [MLP, EXPERTS]);
