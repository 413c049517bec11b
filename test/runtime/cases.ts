/** The list of all GPU cases. */
import { cases as sampler } from "../kernel/sampler.cases.ts";
import { cases as generate } from "../model/generate.cases.ts";
import { cases as golden } from "../model/golden.cases.ts";
import type { Case } from "../support/cases.ts";

export const allCases: Case[] = [...generate, ...golden, ...sampler];
