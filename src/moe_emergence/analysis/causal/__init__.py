"""What experts and gates do, measured by changing them: interventions on held-out documents, paired by document."""
