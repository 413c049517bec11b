/** tide-moe: `qwen3moe`, 4.50 million weights, 16 experts. */
export declare const tideMoe: URL;
