/** A log book to try the shipped models with: they were trained on such lines, and answer questions about them. */
export const SAMPLE_LOG = `Log book of the north quay.
The Marlow lies at berth 52.
The Marlow carries timber.
Lauric told a story about a red pulley.
The pass code of the Marlow is 1950.
The Tern lies at berth 75.
The Tern carries coal.
A cart with tin stood before the lamp steps the whole afternoon.
The pass code of the Tern is 2486.
The Osprey lies at berth 81.
The Osprey carries tin.
Anda spoke with Gissel about the price of rope.
The pass code of the Osprey is 2013.
The Kelpie lies at berth 84.
The Kelpie carries tin.
A cart with timber stood before the lamp steps the whole afternoon.
The pass code of the Kelpie is 3363.
The Brannock lies at berth 80.
The Brannock carries rope.
A cart with rope stood before the lamp steps the whole afternoon.
The pass code of the Brannock is 4078.
The Sallow lies at berth 58.
The Sallow carries rope.
By 07:53 the water had gone down below the coal wharf.
The pass code of the Sallow is 9711.
The Petrel lies at berth 65.
The Petrel carries wax.
Lauric spoke with Gissel about the price of oats.
The pass code of the Petrel is 3945.
The Garwick lies at berth 42.
The Garwick carries rope.
By 09:38 the water had gone down below the coal wharf.
The pass code of the Garwick is 5717.
The Dunlan lies at berth 88.
The Dunlan carries rope.
A cart with timber stood before the lamp steps the whole afternoon.
The pass code of the Dunlan is 9011.
The Erlvin lies at berth 64.
The Erlvin carries salt.
Gissel told a story about a red pulley.
The pass code of the Erlvin is 9137.
The house number of Anda is 693.
The house number of Berna is 916.
The house number of Vimar is 567.
The house number of Lauric is 170.
The house number of Thoda is 960.
The house number of Gissel is 195.
`;
