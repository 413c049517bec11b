/**
 * What a feed-forward is: a part of a layer that keeps nothing of a sequence. The kinds are the files of this folder;
 * kinds.ts lists them.
 */
import type { FeedForward } from "../../shape/shape.ts";
import type { LayerPart } from "../layer-part.ts";
import type { OpContext } from "../op/op-context.ts";

export type FeedForwardKind<F extends { kind: string } = FeedForward, W = unknown> = LayerPart<
  F,
  W,
  OpContext
>;
