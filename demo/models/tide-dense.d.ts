/** tide-dense: `qwen3`, 3.08 million weights. */
export declare const tideDense: URL;
