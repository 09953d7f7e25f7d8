
// ------------------------------------------------------------------------------------- live
// The page of a running study: asks its own server how far it is, and loads itself again for a newer report.
const hear = async () => {
  const told = $("#live-told");
  try {
    const answer = await fetch("progress", { cache: "no-store" });
    if (answer.ok) {
      const news = await answer.json();
      if (news.version !== document.body.dataset.live) return location.reload();
      $("#live").innerHTML = news.html;
      told.textContent = `As of ${new Date().toLocaleTimeString()}.`;
      show();
    } else {
      told.textContent = `Asking again: ${await answer.text()}`;
    }
  } catch (error) {
    told.textContent = "The server has ended; this is the last it said.";
  }
  setTimeout(hear, 3000);
};
setTimeout(hear, 1000);
