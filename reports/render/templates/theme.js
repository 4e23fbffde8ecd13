// Before anything is drawn: the colours chosen last time, and the sign that scripts run.
document.documentElement.classList.add("script");
try {
  const chosen = localStorage.getItem("ham-theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch { /* no storage: the system's colours */ }
