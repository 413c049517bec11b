/** The list of all GPU cases. */
import type { Case } from "../support/cases.ts";

export const allCases: Case[] = [];
