/** tide-dense: `qwen3`, 1.05 million weights. */
export declare const tideDense: URL;
