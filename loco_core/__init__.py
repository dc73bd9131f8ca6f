"""The science of loco-sweep: interventions, scores, localization; one process, one device, no cluster."""
