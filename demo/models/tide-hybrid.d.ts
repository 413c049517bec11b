/** tide-hybrid: `lfm2`, 3.48 million weights, convolution and attention layers. */
export declare const tideHybrid: URL;
