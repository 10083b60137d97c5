"""Twenty Packs that call each other at random while some are killed and some are hostile: nothing is lost, nothing grows."""
