/** tide-hybrid: `lfm2`, 1.30 million weights, convolution and attention layers. */
export declare const tideHybrid: URL;
