/** The list of all GPU cases; a house test holds that no file of cases is missing. */
import { cases as activation } from "../kernel/activation.cases.ts";
import { cases as attention } from "../kernel/attention.cases.ts";
import { cases as compile } from "../kernel/compile.cases.ts";
import { cases as conv } from "../kernel/conv.cases.ts";
import { cases as delta } from "../kernel/delta.cases.ts";
import { cases as embed } from "../kernel/embed.cases.ts";
import { cases as encoder } from "../kernel/encoder.cases.ts";
import { cases as copies } from "../kernel/copies.cases.ts";
import { cases as experts } from "../kernel/experts.cases.ts";
import { cases as kvPack } from "../kernel/kv-pack.cases.ts";
import { cases as kvWrite } from "../kernel/kv-write.cases.ts";
import { cases as mamba } from "../kernel/mamba.cases.ts";
import { cases as matrix } from "../kernel/matrix.cases.ts";
import { cases as notFinite } from "../kernel/not-finite.cases.ts";
import { cases as altUp } from "../kernel/altup.cases.ts";
import { cases as latentKernels } from "../kernel/latent.cases.ts";
import { cases as perLayer } from "../kernel/per-layer.cases.ts";
import { cases as norm } from "../kernel/norm.cases.ts";
import { cases as reduce } from "../kernel/reduce.cases.ts";
import { cases as rope } from "../kernel/rope.cases.ts";
import { cases as vectorNorm } from "../kernel/vector-norm.cases.ts";
import { cases as sampler } from "../kernel/sampler.cases.ts";
import { cases as archives } from "../model/archives.cases.ts";
import { cases as defaultLimits } from "../model/default-limits.cases.ts";
import { cases as softcap } from "../kernel/softcap.cases.ts";
import { cases as deviceLoss } from "../model/device-loss.cases.ts";
import { cases as embedTexts } from "../model/embed.cases.ts";
import { cases as embedding } from "../model/embedding.cases.ts";
import { cases as engine } from "../model/engine.cases.ts";
import { cases as expertDisk } from "../model/expert-disk.cases.ts";
import { cases as boundedExperts } from "../model/bounded.cases.ts";
import { cases as someExperts } from "../model/experts.cases.ts";
import { cases as failedSteps } from "../model/failed-steps.cases.ts";
import { cases as formats } from "../model/formats.cases.ts";
import { cases as generate } from "../model/generate.cases.ts";
import { cases as golden } from "../model/golden.cases.ts";
import { cases as identity } from "../model/identity.cases.ts";
import { cases as live } from "../model/live.cases.ts";
import { cases as latent } from "../model/latent.cases.ts";
import { cases as objectives } from "../model/objectives.cases.ts";
import { cases as rowTable } from "../model/row-table.cases.ts";
import { cases as poolGrowth } from "../model/pool-growth.cases.ts";
import { cases as quants } from "../model/quants.cases.ts";
import { cases as refusals } from "../model/refusals.cases.ts";
import { cases as restored } from "../model/restored.cases.ts";
import { cases as resume } from "../model/resume.cases.ts";
import { cases as packed } from "../model/packed.cases.ts";
import { cases as packedLife } from "../model/packed-life.cases.ts";
import { cases as segments } from "../model/segments.cases.ts";
import { cases as shipped } from "../model/shipped.cases.ts";
import { cases as textWorker } from "../model/text-worker.cases.ts";
import { cases as tiers } from "../model/tiers.cases.ts";
import { cases as toyKinds } from "../model/toy-kinds.cases.ts";
import { cases as transformers } from "../model/transformers.cases.ts";
import { cases as snapshots } from "../model/snapshots.cases.ts";
import { needingShared, type Case } from "../support/cases.ts";

export const allCases: Case[] = [
  ...activation,
  ...attention,
  ...compile,
  ...conv,
  ...delta,
  ...embed,
  ...encoder,
  ...experts,
  ...copies,
  ...kvPack,
  ...kvWrite,
  ...mamba,
  ...matrix,
  ...norm,
  ...perLayer,
  ...latentKernels,
  ...altUp,
  ...notFinite,
  ...reduce,
  ...rope,
  ...sampler,
  ...softcap,
  ...vectorNorm,
  ...needingShared([
    ...embedding,
    ...someExperts,
    ...expertDisk,
    ...boundedExperts,
    ...engine,
    ...formats,
    ...generate,
    ...golden,
    ...identity,
    ...archives,
    ...quants,
    ...tiers,
    ...defaultLimits,
    ...deviceLoss,
    ...failedSteps,
    ...poolGrowth,
    ...rowTable,
    ...latent,
    ...refusals,
    ...restored,
    ...resume,
    ...packed,
    ...packedLife,
    ...segments,
    ...snapshots,
  ]),
  ...embedTexts,
  ...live,
  ...objectives,
  ...shipped,
  ...textWorker,
  ...toyKinds,
  ...transformers,
];
