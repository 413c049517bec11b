/** What a model type of config.json says in its own way: the form of the tables that hyperparameters-config.ts reads by. */
import type { Hyperparameters } from "../hyperparameters.ts";
import type { Reader } from "../settings-reader.ts";
import type { Activation } from "../../../shape/shape.ts";

/** What a model type leaves unsaid. */
export interface Dialect {
  defaults: Readonly<Record<string, unknown>>;
  /** Which layers are local where no `layer_types` lists them. Absent: the type has no windows. */
  localLayers?(read: Reader, layers: number, ropeLayers: readonly boolean[] | undefined): boolean[];
  /** Layers without rotation. */
  ropeLayers?(read: Reader, layers: number): boolean[];
  /** `rope_parameters` may be listed by layer type; before that, the base of local layers had this key. */
  localRope?: string;
  /** Its own keys -> those of most types. */
  keys?: Readonly<Record<string, string>>;
  /** The key that names the activation. */
  activation: string;
  /** Names of activations that mean something else than elsewhere. */
  activations?: Readonly<Record<string, Activation>>;
  /** Embedding, residuals, scores and logits have factors. */
  multipliers?: boolean;
  /** Queries grow with their position. */
  temperature?: boolean;
  /** "dynamic" scaling has an `alpha`. */
  ntkAlpha?: boolean;
  /** A list, or a text of letters, with an entry for each layer: it says how many there are where nothing else does. */
  layersOf?: readonly string[];
  /** Settings of which one value alone runs, which is also that of a file that says nothing. */
  fixed?: Readonly<Record<string, unknown>>;
  /** The key of the norms' epsilon. Default: `rms_norm_eps`. */
  normEps?: string;
  /** Where it says what experts there are. Absent: a model with experts is refused. */
  experts?: ExpertKeys;
  /** What this type alone says, in place of what was read as for all types. */
  adjust?(read: Reader, params: Hyperparameters): Partial<Hyperparameters>;
}

/** The keys of a mixture of experts. */
export interface ExpertKeys {
  count: string;
  /** A switch without which there are none, whatever the others say. */
  unless?: string;
  /** Experts of a token. */
  chosen: string;
  /** Width of one expert. */
  width: string;
  /** Width of the expert that every token has, or how many experts wide it is. */
  sharedWidth?: string | undefined;
  sharedCount?: string;
  /** Absent: the architecture's own, as below. */
  gate?: "sigmoid";
  renormalise?: string | undefined;
  /** Multiplies the weights. */
  scale?: string;
  groups?: { count: string; used: string };
}
