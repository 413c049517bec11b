/** tide-dense: `qwen3`, 1.05 million weights. */
export declare const tideDense: URL;
/** tide-hybrid: `lfm2`, 1.30 million weights, convolution and attention layers. */
export declare const tideHybrid: URL;
/** tide-moe: `qwen3moe`, 4.50 million weights, 16 experts. */
export declare const tideMoe: URL;
