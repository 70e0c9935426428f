"""One self-contained HTML page about an evaluation or a prediction: functions of plain data."""
