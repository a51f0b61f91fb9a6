// One recording at a time; the line on the waveform follows, and a click on the waveform goes there.
for (const figure of document.querySelectorAll(".sound")) {
  const audio = figure.querySelector("audio"), wave = figure.querySelector(".wave");
  const length = () => audio.duration || Number(wave.dataset.seconds); // which a file that is not open yet does not say
  const follow = () => {
    wave.style.setProperty("--on", audio.currentTime > 0 ? 1 : 0);
    wave.style.setProperty("--at", `${(100 * audio.currentTime) / length()}%`);
    if (!audio.paused) requestAnimationFrame(follow);
  };
  audio.addEventListener("seeked", follow);
  audio.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
    follow();
  });
  wave.addEventListener("click", (event) => {
    const box = wave.getBoundingClientRect();
    audio.currentTime = ((event.clientX - box.left) / box.width) * length();
    audio.play();
  });
}
